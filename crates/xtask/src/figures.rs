//! The figures of `cargo xtask bench`: numbers with names.
//!
//! A name ends with the unit, unless the figure is a ratio or a count. A pattern such as `hit_{moka,get}_ns` means
//! the names `hit_moka_ns` and `hit_get_ns`.

use std::collections::BTreeMap;

/// Patterns of all figures.
const KNOWN: &[&str] = &[
    "ready_get_over_arc_swap_load",
    "ready_two_threads_get_over_arc_swap_load",
    "ready_get_two_threads_over_one_thread",
    "hit_{secret_vault,moka,quick_cache}_over_with_cached",
    "hit_of_{1,100,1000,10000,100000}_random_keys_{secret_vault,moka,quick_cache}_over_with_cached",
    "vault_{10,100}_secrets_secretwell_over_{reqwest,vaultrs,vault_client_rs}",
    "vault_{10,100}_secrets_elapsed_secretwell_over_vaultrs_one_by_one",
    "infisical_{changed,unchanged}_secretwell_over_sdk",
    "authjs_decode_{auth_core,jose}_over_secretwell",
    "authjs_encode_auth_core_over_secretwell",
    "betterauth_{compact,jwt,jwe}_{read,encode}_package_over_secretwell",
    "rotation_p99_rotating_over_steady",
    "scale_{refresh_batch,refresh_no_batch,refresh_each_30_s_batch,refresh_each_30_s_no_batch,insertion,insertion_with_eviction,memory_per_key,memory_per_key_read_at_once,pause_get_many,pause_refresh,pause_change_of_all,pause_eviction,forced_refresh,fetch_with_10000_watches_another_key,fetch_with_10000_watches_same_value,fetch_with_10000_watches_new_value}_1000000_over_1000_keys",
    "cold_{env,file,vault,infisical}_{lazy_minus_eager,lazy,eager}_ms",
    "ready{,_two_threads}_{get,with,reader,arc_swap_load,arc_swap_cache,once_lock,once_cell,rwlock}_ns",
    "ready_{get,with,reader,arc_swap_load,arc_swap_cache,once_lock,once_cell,rwlock}_allocations",
    "hit{,_two_threads}_{with_cached,get,secret_vault,moka,quick_cache,rwlock_hashmap,foldhash_map,env_var}_ns",
    "hit_{with_cached,get,secret_vault,moka,quick_cache,rwlock_hashmap,foldhash_map,env_var}_allocations",
    "hit_of_{1,100,1000,10000,100000}_random_keys_{with_cached,second_source,secret_vault,moka,quick_cache}_ns",
    "metrics_{get,with,with_cached}_{off,on}_ns",
    "scale_{refresh_batch,refresh_no_batch,insertion,insertion_with_eviction,forced_refresh,fetch_with_10000_watches_another_key,fetch_with_10000_watches_same_value,fetch_with_10000_watches_new_value}_{1000,10000,100000,1000000}_keys_us",
    "scale_refresh_each_30_s_{batch,no_batch}_{1000,10000,100000,1000000}_keys_percent_of_a_core",
    "scale_{memory_per_key,memory_per_key_read_at_once}_{1000,10000,100000,1000000}_keys_bytes",
    "scale_pause_{get_many,refresh,change_of_all,eviction}_{1000,10000,100000,1000000}_keys_ms",
    "callers_{one_thread,two_threads}_source_of_{0,1}_ms_{median,most}_calls",
    "documents_{env,json,toml,yaml}_ms",
    "rotation_{steady,rotating}_{p50,p99,p999}_ns",
    "rotation_first_call_{p50,longest}_ns",
    "rotation_failed_requests",
    "rotation_count",
    "authjs_decode_{secretwell,auth_core,jose}_us",
    "authjs_encode_{secretwell,auth_core}_us",
    "authjs_route_{guarded,unguarded}_us",
    "betterauth_{compact,jwt,jwe}_{read,encode}_{secretwell,package}_us",
    "betterauth_{compact,jwt,jwe}_{read,encode}_allocations",
    "command_{true,secretwell_env,secretwell_file,secretwell_vault,curl_and_jq,bao_agent}_ms",
    "vault_{10,100}_secrets_{secretwell,reqwest,vaultrs,vault_client_rs}_us",
    "vault_{10,100}_secrets_elapsed_{secretwell,vaultrs_one_by_one}_us",
    "infisical_{changed,unchanged}_{secretwell,sdk}_us",
];

/// Returns the names of all figures. Ratios come first.
pub(crate) fn known() -> Vec<String> {
    KNOWN.iter().flat_map(|pattern| expand(pattern)).collect()
}

/// Returns the names that a pattern means.
pub(crate) fn expand(pattern: &str) -> Vec<String> {
    let Some((before, rest)) = pattern.split_once('{') else {
        return vec![pattern.to_owned()];
    };
    let (choices, after) = rest.split_once('}').unwrap_or((rest, ""));
    let after = expand(after);
    choices
        .split(',')
        .flat_map(|choice| {
            let names = after.iter();
            names.map(move |after| format!("{before}{choice}{after}"))
        })
        .collect()
}

/// Measured figures.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Figures(BTreeMap<String, f64>);

impl Figures {
    /// Adds a figure with four significant digits.
    ///
    /// # Errors
    /// Returns an error if no figure has this name, or if the value is not finite.
    pub(crate) fn add(&mut self, name: &str, value: f64) -> Result<(), String> {
        if !known().iter().any(|known| known == name) {
            return Err(format!("no figure has the name {name}"));
        }
        if !value.is_finite() {
            return Err(format!("{name} is {value}"));
        }
        let rounded = format!("{value:.3e}").parse().unwrap_or(value);
        self.0.insert(name.to_owned(), rounded);
        Ok(())
    }

    pub(crate) fn get(&self, name: &str) -> Option<f64> {
        self.0.get(name).copied()
    }

    /// Returns the text of a flat JSON object, with a line for each figure. Ratios come first.
    pub(crate) fn to_json(&self) -> String {
        let mut names = known();
        names.retain(|name| self.0.contains_key(name));
        names.dedup();
        let lines: Vec<String> = names
            .iter()
            .map(|name| format!("  \"{name}\": {}", self.0[name]))
            .collect();
        format!("{{\n{}\n}}\n", lines.join(",\n"))
    }

    /// Parses the text that [`Self::to_json`] returns.
    ///
    /// # Errors
    /// Returns an error if it is not an object of known figures.
    pub(crate) fn from_json(text: &str) -> Result<Self, String> {
        let object: BTreeMap<String, serde_json::Value> =
            serde_json::from_str(text).map_err(|error| error.to_string())?;
        let mut figures = Self::default();
        for (name, value) in object {
            let value = value.as_f64();
            figures.add(
                &name,
                value.ok_or_else(|| format!("{name} is not a number"))?,
            )?;
        }
        Ok(figures)
    }
}

/// Parses lines that consist of a name, a tab and a number.
///
/// # Errors
/// Returns an error with the line that is different.
pub(crate) fn parse_lines(text: &str) -> Result<Vec<(String, f64)>, String> {
    let parse = |line: &str| {
        let (name, value) = line.split_once('\t')?;
        Some((name.to_owned(), value.parse().ok()?))
    };
    text.lines()
        .map(|line| parse(line).ok_or_else(|| format!("not a figure: {line}")))
        .collect()
}

/// Returns a number with three significant digits, and without decimals from 100 on.
pub(crate) fn short(value: f64) -> String {
    let size = value.abs();
    if value.fract() == 0.0 && size < 1000.0 {
        return format!("{value}");
    }
    match size {
        ..1.0 => format!("{value:.3}"),
        ..10.0 => format!("{value:.2}"),
        ..100.0 => format!("{value:.1}"),
        _ => grouped(value),
    }
}

/// Returns a number without decimals, with commas between thousands.
fn grouped(number: f64) -> String {
    let digits = format!("{number:.0}");
    let groups: Vec<&[u8]> = digits.as_bytes().rchunks(3).rev().collect();
    String::from_utf8_lossy(&groups.join(&b',')).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pattern_stands_for_each_combination() {
        assert_eq!(
            expand("a_{b,c}_{1,2}"),
            ["a_b_1", "a_b_2", "a_c_1", "a_c_2"]
        );
        assert_eq!(expand("a{,_b}"), ["a", "a_b"]);
    }

    #[test]
    fn names_are_unique_and_ratios_come_first() {
        let names = known();
        let mut sorted = names.clone();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(sorted.len(), names.len());
        let is_ratio = |name: &String| name.contains("_over_");
        let ratios = names.iter().take_while(|name| is_ratio(name)).count();
        assert!(!names[ratios..].iter().any(is_ratio));
    }

    #[test]
    fn figures_are_the_same_after_writing_and_parsing() {
        let mut figures = Figures::default();
        figures.add("hit_moka_ns", 123.456).unwrap();
        figures.add("hit_moka_over_with_cached", 4.5).unwrap();
        let json = figures.to_json();
        let expected = "{\n  \"hit_moka_over_with_cached\": 4.5,\n  \"hit_moka_ns\": 123.5\n}\n";
        assert_eq!(json, expected);
        assert_eq!(Figures::from_json(&json).unwrap(), figures);
    }

    #[test]
    fn unknown_and_unusable_figures_are_errors() {
        let mut figures = Figures::default();
        assert!(figures.add("hit_of_nothing", 1.0).is_err());
        assert!(figures.add("hit_moka_ns", f64::NAN).is_err());
        assert_eq!(parse_lines("a\t1.5\n").unwrap(), [("a".to_owned(), 1.5)]);
        assert_eq!(parse_lines("a 1").unwrap_err(), "not a figure: a 1");
    }

    #[test]
    fn numbers_have_three_digits() {
        let texts = [0.0, 0.0714, 1.234, 12.34, 123.4, 98_765.0, -0.5].map(short);
        assert_eq!(
            texts,
            ["0", "0.071", "1.23", "12.3", "123", "98,765", "-0.500"]
        );
    }
}
