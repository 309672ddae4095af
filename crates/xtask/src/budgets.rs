//! The budgets of the benchmarks.

use crate::figures::{Figures, expand, short};

/// A promise about figures.
struct Budget {
    /// The measured quantity.
    about: &'static str,
    /// A pattern of the figures. Each of them must be within the limit.
    figures: &'static str,
    limit: Limit,
    unit: &'static str,
    /// The reason that the page gives if the budget is not met.
    reason: &'static str,
}

#[derive(Clone, Copy)]
enum Limit {
    AtMost(f64),
    AtLeast(f64),
}

use Limit::{AtLeast, AtMost};

const BUDGETS: &[Budget] = &[
    Budget {
        about: "`LazyAuth::get().await` when ready, compared with arc-swap's `load`, with 1 and 2 threads",
        figures: "ready{,_two_threads}_get_over_arc_swap_load",
        limit: AtMost(2.3),
        unit: "times",
        reason: "`get` reads two clocks, and it returns a guard that counts a reference. A `load` of arc-swap does neither.",
    },
    Budget {
        about: "`LazyAuth::get().await` with 2 threads, compared with 1 thread",
        figures: "ready_get_two_threads_over_one_thread",
        limit: AtMost(1.1),
        unit: "times",
        reason: "All threads read the same pointer.",
    },
    Budget {
        about: "`LazyAuth::with`, 1 thread",
        figures: "ready_with_ns",
        limit: AtMost(9.0),
        unit: "ns",
        reason: "`with` reads a clock.",
    },
    Budget {
        about: "`Reader::get`",
        figures: "ready_reader_ns",
        limit: AtMost(7.0),
        unit: "ns",
        reason: "`Reader::get` reads a clock.",
    },
    Budget {
        about: "`Resolver::with_cached`, one of 1, 100 and 1,000 keys in random order",
        figures: "hit_of_{1,100,1000}_random_keys_with_cached_ns",
        limit: AtMost(16.0),
        unit: "ns",
        reason: "A cache hit reads a clock and compares the whole key. The entries of 1,000 keys take about 300 kB, which is more than the first cache of a processor holds. On a processor of AMD (EPYC), the last measured times were 13.3, 14.6 and 17.4 ns.",
    },
    Budget {
        about: "a cache hit of secret-vault and moka, compared with one of the resolver, 100 keys",
        figures: "hit_{secret_vault,moka}_over_with_cached",
        limit: AtLeast(6.0),
        unit: "times",
        reason: "A cache hit reads a clock and compares the whole key. moka checks no age here.",
    },
    Budget {
        about: "the same for 1,000 keys in random order",
        figures: "hit_of_1000_random_keys_{secret_vault,moka}_over_with_cached",
        limit: AtLeast(6.0),
        unit: "times",
        reason: "The entries of 1,000 keys take more memory than the first cache of a processor holds, for each library. The ratios become smaller with the number of keys.",
    },
    Budget {
        about: "allocations in these reads",
        figures: "{ready_get,ready_with,ready_reader,hit_with_cached}_allocations",
        limit: AtMost(0.0),
        unit: "",
        reason: "A read allocates.",
    },
    Budget {
        about: "refreshes of 100,000 keys with a ttl of 30 s, with and without batches",
        figures: "scale_refresh_each_30_s_{batch,no_batch}_100000_keys_percent_of_a_core",
        limit: AtMost(5.0),
        unit: "% of a core",
        reason: "The bookkeeping of a refresh costs too much.",
    },
    Budget {
        about: "a refresh with and without batches, and an insertion with eviction, with 1,000,000 keys compared with 1,000",
        figures: "scale_{refresh_batch,refresh_no_batch,insertion_with_eviction}_1000000_over_1000_keys",
        limit: AtMost(2.0),
        unit: "times",
        reason: "The maps of 1,000,000 keys do not fit into the caches of the processor.",
    },
    Budget {
        about: "the longest pause with 100,000 keys: `get_many`, refresh, change of all keys, evictions",
        figures: "scale_pause_{get_many,refresh,change_of_all,eviction}_100000_keys_ms",
        limit: AtMost(10.0),
        unit: "ms",
        reason: "A pause lasts as long as the longest piece of work between two yields.",
    },
    Budget {
        about: "memory per cached key of 100,000, beside key and value",
        figures: "scale_memory_per_key_100000_keys_bytes",
        limit: AtMost(300.0),
        unit: "bytes",
        reason: "An entry has too many parts.",
    },
    Budget {
        about: "200 callers of different keys, 1 and 2 threads, a source with batches that takes 0 and 1 ms: its calls",
        figures: "callers_{one_thread,two_threads}_source_of_{0,1}_ms_most_calls",
        limit: AtMost(4.0),
        unit: "calls",
        reason: "This is the worst of 50 attempts; the median is 1. [Its section](#number-of-keys) names the reason.",
    },
    Budget {
        about: "100 keys in 100 secrets of Vault, compared with reqwest",
        figures: "vault_100_secrets_secretwell_over_reqwest",
        limit: AtMost(1.15),
        unit: "times the CPU time",
        reason: "The provider does the additional work that the section on Vault describes. [Changes of the remote backends](#changes-of-the-remote-backends) lists what was tried.",
    },
    Budget {
        about: "the same, compared with vaultrs that reads one secret after the other",
        figures: "vault_100_secrets_elapsed_secretwell_over_vaultrs_one_by_one",
        limit: AtMost(0.4),
        unit: "times the elapsed time",
        reason: "Reads at the same time wait for the same server.",
    },
    Budget {
        about: "a changed list of 200 secrets, compared with the SDK of Infisical",
        figures: "infisical_changed_secretwell_over_sdk",
        limit: AtMost(1.2),
        unit: "times the CPU time",
        reason: "The provider does the additional work that the section on Infisical describes.",
    },
    Budget {
        about: "an unchanged list of 200 secrets, compared with the SDK of Infisical",
        figures: "infisical_unchanged_secretwell_over_sdk",
        limit: AtMost(0.8),
        unit: "times the CPU time",
        reason: "The provider does the additional work that the section on Infisical describes.",
    },
    Budget {
        about: "failed requests during rotations",
        figures: "rotation_failed_requests",
        limit: AtMost(0.0),
        unit: "",
        reason: "A request failed during a rotation.",
    },
    Budget {
        about: "p99 of the latency during rotations, compared with the steady one",
        figures: "rotation_p99_rotating_over_steady",
        limit: AtMost(1.5),
        unit: "times",
        reason: "Builds run on the same cores.",
    },
    Budget {
        about: "decoding a session token of Auth.js, `@auth/core` compared with Secretwell",
        figures: "authjs_decode_auth_core_over_secretwell",
        limit: AtLeast(100.0),
        unit: "times",
        reason: "Most of the time of a decoding is decryption.",
    },
    Budget {
        about: "reading a session of Better Auth in the strategies `compact`, `jwt` and `jwe`, the package compared with Secretwell",
        figures: "betterauth_{compact,jwt,jwe}_read_package_over_secretwell",
        limit: AtLeast(100.0),
        unit: "times",
        reason: "Most of the time of a read is the parsing of JSON, checks of columns, signatures and allocations. Earlier runs did not warm the package up, so their ratios were too high. [Its section](#better-auth-sessions) names what was tried.",
    },
    // 2 % of a start that takes less than 50 ms is less than this.
    Budget {
        about: "first response after the start of a process, lazy minus eager: env, file, Vault, Infisical",
        figures: "cold_{env,file,vault,infisical}_lazy_minus_eager_ms",
        limit: AtMost(1.0),
        unit: "ms",
        reason: "The lazy service reads its secrets while the request waits.",
    },
];

/// A budget and its figures.
pub(crate) struct Outcome {
    pub(crate) about: &'static str,
    /// The figures in short, or `not measured`.
    pub(crate) measured: String,
    pub(crate) budget: String,
    pub(crate) status: &'static str,
    pub(crate) reason: &'static str,
}

pub(crate) const NOT_MEASURED: &str = "not measured";
pub(crate) const NOT_MET: &str = "not met";

/// Compares figures with the budgets.
pub(crate) fn judge(figures: &Figures) -> Vec<Outcome> {
    BUDGETS
        .iter()
        .map(|budget| judge_one(budget, figures))
        .collect()
}

fn judge_one(budget: &Budget, figures: &Figures) -> Outcome {
    let names = expand(budget.figures);
    let values: Vec<Option<f64>> = names.iter().map(|name| figures.get(name)).collect();
    let is_within = |value: &f64| match budget.limit {
        AtMost(limit) => *value <= limit,
        AtLeast(limit) => *value >= limit,
    };
    let text = |value: &Option<f64>| value.map_or_else(|| NOT_MEASURED.to_owned(), short);
    let measured: Vec<String> = values.iter().map(text).collect();
    let status = match values.iter().flatten().all(is_within) {
        false => NOT_MET,
        true if values.contains(&None) => "open",
        true => "met",
    };
    let (words, limit) = match budget.limit {
        AtMost(limit) => ("at most", limit),
        AtLeast(limit) => ("at least", limit),
    };
    Outcome {
        about: budget.about,
        measured: measured.join("; "),
        budget: format!("{words} {limit} {}", budget.unit)
            .trim_end()
            .to_owned(),
        status,
        reason: budget.reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::known;

    #[test]
    fn budgets_are_about_known_figures() {
        let known = known();
        for name in BUDGETS.iter().flat_map(|budget| expand(budget.figures)) {
            assert!(known.contains(&name), "{name}");
        }
    }

    #[test]
    fn every_figure_of_a_budget_must_be_within_the_limit() {
        let status = |compact, jwe: Option<f64>| {
            let mut figures = Figures::default();
            let figure = |name| format!("betterauth_{name}_read_package_over_secretwell");
            figures.add(&figure("compact"), compact).unwrap();
            figures.add(&figure("jwt"), 100.0).unwrap();
            if let Some(jwe) = jwe {
                figures.add(&figure("jwe"), jwe).unwrap();
            }
            let outcomes = judge(&figures);
            let outcome = outcomes
                .into_iter()
                .find(|outcome| outcome.about.contains("`jwe`"));
            outcome.map(|outcome| (outcome.measured, outcome.status))
        };
        let outcome = |measured: &str, status| Some((measured.to_owned(), status));
        assert_eq!(status(120.0, Some(100.0)), outcome("120; 100; 100", "met"));
        assert_eq!(status(99.0, Some(100.0)), outcome("99; 100; 100", NOT_MET));
        assert_eq!(
            status(99.0, None),
            outcome("99; 100; not measured", NOT_MET)
        );
        assert_eq!(
            status(120.0, None),
            outcome("120; 100; not measured", "open")
        );
    }
}
