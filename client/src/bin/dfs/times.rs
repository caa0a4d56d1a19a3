//! Points in time as `ls`, `stat` and `touch` spell them. All are nanoseconds since 1970 in UTC.

use std::time::{SystemTime, UNIX_EPOCH};

const NANOS_PER_SECOND: i64 = 1_000_000_000;
const NANOS_PER_MILLI: i64 = 1_000_000;
const SECONDS_PER_DAY: i64 = 86_400;

/// Now.
pub fn now_ns() -> i64 {
    from_system(SystemTime::now())
}

/// Nanoseconds of `time`; times that 64 bits cannot hold (before 1678, after 2261) are clamped.
pub fn from_system(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_nanos()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |ns| -ns),
    }
}

/// The point in time that `ns` stands for.
pub fn to_system(ns: i64) -> SystemTime {
    let distance = std::time::Duration::from_nanos(ns.unsigned_abs());
    if ns < 0 { UNIX_EPOCH - distance } else { UNIX_EPOCH + distance }
}

/// `2024-02-29 13:05` in the local time zone, as `ls` shows it.
pub fn local_minutes(ns: i64) -> String {
    let seconds = ns.div_euclid(NANOS_PER_SECOND);
    match local(seconds) {
        Some(t) => format!(
            "{:04}-{:02}-{:02} {:02}:{:02}",
            i64::from(t.tm_year) + 1900,
            t.tm_mon + 1,
            t.tm_mday,
            t.tm_hour,
            t.tm_min
        ),
        None => utc_seconds(ns)[..16].to_owned(),
    }
}

/// `2024-02-29 13:05:59` in UTC, as `stat` shows it.
pub fn utc_seconds(ns: i64) -> String {
    let seconds = ns.div_euclid(NANOS_PER_SECOND);
    let (year, month, day) = civil_from_days(seconds.div_euclid(SECONDS_PER_DAY));
    let of_day = seconds.rem_euclid(SECONDS_PER_DAY);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}", of_day / 3600, of_day / 60 % 60, of_day % 60)
}

/// Milliseconds since 1970.
pub fn millis(ns: i64) -> i64 {
    ns.div_euclid(NANOS_PER_MILLI)
}

/// Reads `yyyyMMdd:HHmmss` in the local time zone, as `touch -t` takes it.
pub fn parse_touch(text: &str) -> Option<i64> {
    let (date, time) = text.split_once(':')?;
    let digits = |t: &str, len: usize| t.len() == len && t.bytes().all(|b| b.is_ascii_digit());
    if !digits(date, 8) || !digits(time, 6) {
        return None;
    }
    let number = |t: &str| t.parse::<i32>().ok();
    let (year, month, day) = (number(&date[..4])?, number(&date[4..6])?, number(&date[6..])?);
    let (hour, minute, second) = (number(&time[..2])?, number(&time[2..4])?, number(&time[4..])?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    // SAFETY: `tm` is a plain C struct for which all zeros is a valid value.
    let mut t: libc::tm = unsafe { std::mem::zeroed() };
    t.tm_year = year - 1900;
    t.tm_mon = month - 1;
    t.tm_mday = day;
    t.tm_hour = hour;
    t.tm_min = minute;
    t.tm_sec = second;
    t.tm_isdst = -1;
    // SAFETY: `t` is a valid, exclusively borrowed `tm` for the duration of the call.
    let seconds = unsafe { libc::mktime(&mut t) };
    // mktime turns the 31st of a short month into the 1st of the next: such a date does not exist.
    if t.tm_mday != day {
        return None;
    }
    seconds.checked_mul(NANOS_PER_SECOND)
}

fn local(seconds: i64) -> Option<libc::tm> {
    // SAFETY: `tm` is a plain C struct for which all zeros is a valid value.
    let mut t: libc::tm = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to live locals; localtime_r writes only to the second.
    let answer = unsafe { libc::localtime_r(&seconds, &mut t) };
    (!answer.is_null()).then_some(t)
}

/// Year, month and day of a day counted from 1970-01-01 in the Gregorian calendar. Counts years
/// from March so that the leap day is a year's last, and in eras of 400 years, which repeat.
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    const DAYS_PER_ERA: i64 = 146_097;
    // Days from 0000-03-01 to 1970-01-01.
    const EPOCH_SHIFT: i64 = 719_468;
    let days = days + EPOCH_SHIFT;
    let era = days.div_euclid(DAYS_PER_ERA);
    let of_era = days.rem_euclid(DAYS_PER_ERA);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn utc_matches_known_dates() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00:00"),
            (951_827_696, "2000-02-29 12:34:56"),
            (1_709_211_599, "2024-02-29 12:59:59"),
            (-1, "1969-12-31 23:59:59"),
            (4_102_444_800, "2100-01-01 00:00:00"),
        ] {
            assert_eq!(utc_seconds(seconds * NANOS_PER_SECOND), text);
        }
        assert_eq!(millis(1_500_000_001), 1_500);
    }

    #[test]
    fn local_time_goes_both_ways() {
        let ns = parse_touch("20240229:130559").unwrap();
        assert_eq!(local_minutes(ns), "2024-02-29 13:05");
        assert_eq!(ns % (60 * NANOS_PER_SECOND), 59 * NANOS_PER_SECOND);
    }

    #[test]
    fn impossible_dates_are_refused() {
        for text in ["20230229:000000", "20241301:000000", "2024-01-01", "20240101:2500", ""] {
            assert_eq!(parse_touch(text), None, "{text}");
        }
    }
}
