//! Dates in JSON, as JavaScript reads and writes them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Parses a text that the package reads as a date, such as `2027-01-22T08:00:00.000Z`, into milliseconds
/// since 1970.
///
/// As in JavaScript, further digits of the seconds are ignored, and February 30 is March 2 or 1.
pub(super) fn parse_date(text: &str) -> Option<i64> {
    let text = text.strip_suffix('Z')?;
    let (seconds, fraction) = match text.split_once('.') {
        Some((seconds, fraction)) => (seconds, Some(fraction)),
        None => (text, None),
    };
    let is_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let milliseconds = match fraction {
        None => 0,
        Some(fraction) if !fraction.is_empty() && is_digits(fraction) => {
            let digits = fraction.bytes().chain(*b"00").take(3);
            digits.fold(0, |number, digit| number * 10 + i64::from(digit - b'0'))
        }
        Some(_) => return None,
    };
    let bytes = seconds.as_bytes();
    let separators = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    if bytes.len() != 19
        || separators
            .iter()
            .any(|(at, separator)| bytes[*at] != *separator)
    {
        return None;
    }
    let number = |start: usize, end: usize| {
        let digits = bytes.get(start..end)?;
        digits.iter().try_fold(0, |number, digit| {
            let value = digit.is_ascii_digit().then(|| i64::from(digit - b'0'))?;
            Some(number * 10 + value)
        })
    };
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let is_midnight = (hour, minute, second, milliseconds) == (24, 0, 0, 0);
    let is_valid = (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && (hour <= 23 || is_midnight)
        && minute <= 59
        && second <= 59;
    is_valid.then(|| {
        let hours = days(year, month, day) * 24 + hour;
        ((hours * 60 + minute) * 60 + second) * 1000 + milliseconds
    })
}

/// A date in the form of `toISOString` of JavaScript.
#[derive(Clone, Copy)]
pub(super) struct DateText([u8; 24]);

impl DateText {
    pub(super) fn as_str(&self) -> &str {
        // It consists of ASCII characters.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

/// Formats milliseconds since 1970, or returns `None` if the year does not have four digits.
pub(super) fn format_date(milliseconds: i64) -> Option<DateText> {
    let (day, time) = (milliseconds.div_euclid(DAY), milliseconds.rem_euclid(DAY));
    let (year, month, day) = date(day);
    let (seconds, fraction) = (time / 1000, time % 1000);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if !(0..=9999).contains(&year) {
        return None;
    }
    // Without the machinery of `format!`, which takes longer than the rest of a signature.
    let mut text = *b"0000-00-00T00:00:00.000Z";
    for (number, places) in [
        (year, 0..4),
        (month, 5..7),
        (day, 8..10),
        (hour, 11..13),
        (minute, 14..16),
        (second, 17..19),
        (fraction, 20..23),
    ] {
        // No number is negative.
        let mut number = number.unsigned_abs();
        for digit in text[places].iter_mut().rev() {
            *digit += u8::try_from(number % 10).unwrap_or_default();
            number /= 10;
        }
    }
    Some(DateText(text))
}

/// Milliseconds of a day.
const DAY: i64 = 24 * 60 * 60 * 1000;

/// Returns the days from 1970 to a date of the Gregorian calendar.
fn days(year: i64, month: i64, day: i64) -> i64 {
    // The year begins in March, so that the leap day is its last day.
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// Returns year, month and day of a number of days since 1970.
fn date(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 {
        march_month + 3
    } else {
        march_month - 9
    };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    (year, month, day)
}

/// Returns the time `milliseconds` after 1970, or before it.
pub(super) fn to_time(milliseconds: i64) -> Option<SystemTime> {
    let distance = Duration::from_millis(milliseconds.unsigned_abs());
    match milliseconds >= 0 {
        true => UNIX_EPOCH.checked_add(distance),
        false => UNIX_EPOCH.checked_sub(distance),
    }
}

/// Returns the time of a number of milliseconds since 1970 that can have a fraction.
pub(super) fn time_of_milliseconds(milliseconds: f64) -> Option<SystemTime> {
    let since = Duration::try_from_secs_f64(milliseconds).ok()? / 1000;
    UNIX_EPOCH.checked_add(since)
}

/// Returns the whole milliseconds from 1970 to `time`, rounded down.
pub(super) fn to_milliseconds(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
        Err(before) => {
            let before = before.duration();
            let started = i64::from(before.subsec_nanos() % 1_000_000 > 0);
            i64::try_from(before.as_millis()).map_or(i64::MIN, |before| -before - started)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_read_as_in_javascript() {
        for (text, milliseconds) in [
            ("1970-01-01T00:00:00.000Z", Some(0)),
            ("2027-01-15T08:00:00.000Z", Some(1_800_000_000_000)),
            ("2027-01-15T08:00:00Z", Some(1_800_000_000_000)),
            ("2027-01-15T08:00:00.1Z", Some(1_800_000_000_100)),
            ("2027-01-15T08:00:00.1239Z", Some(1_800_000_000_123)),
            ("1815-12-10T00:00:00Z", Some(-4_861_728_000_000)),
            ("2024-02-29T24:00:00Z", Some(1_709_251_200_000)),
            ("2023-02-30T00:00:00Z", Some(1_677_715_200_000)),
            ("0000-01-01T00:00:00Z", Some(-62_167_219_200_000)),
            ("9999-12-31T23:59:59.999Z", Some(253_402_300_799_999)),
            ("2027-13-15T08:00:00Z", None),
            ("2027-00-15T08:00:00Z", None),
            ("2027-01-32T08:00:00Z", None),
            ("2027-01-15T24:00:01Z", None),
            ("2027-01-15T08:60:00Z", None),
            ("2027-01-15T08:00:60Z", None),
            ("2027-01-15T08:00:00.Z", None),
            ("2027-01-15T08:00:00", None),
            ("2027-01-15T08:00:00+00:00", None),
            ("2027-01-15 08:00:00Z", None),
            ("+2027-01-15T08:00:00Z", None),
            ("2027-01-15T08:00:00Z\n", None),
            ("é27-01-15T08:00:00Z", None),
            ("202é-1-15T08:00:00Z", None),
            ("", None),
        ] {
            assert_eq!(parse_date(text), milliseconds, "{text}");
        }
    }

    #[test]
    fn every_day_is_formatted_and_read_back() {
        for day in (-719_528..2_932_897).step_by(13) {
            let milliseconds = day * DAY + 12_345_678;
            let text = format_date(milliseconds).unwrap();
            let text = text.as_str();
            assert_eq!(parse_date(text), Some(milliseconds), "{text}");
        }
        assert!(format_date(-719_529 * DAY).is_none());
        assert!(format_date(2_932_897 * DAY).is_none());
        assert!(format_date(i64::MAX).is_none());
        assert_eq!(to_time(-1).map(to_milliseconds), Some(-1));
        assert_eq!(to_time(1).map(to_milliseconds), Some(1));
    }
}
