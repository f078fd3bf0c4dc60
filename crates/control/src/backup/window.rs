//! Hours of the day, in UTC, and time that passes only within them.

use std::{fmt, str::FromStr, time::Duration};

pub(super) const DAY_MS: i64 = 24 * 3600 * 1000;

/// Hours of the day in which backups begin, in UTC.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Window {
    start_ms: i64,
    length_ms: i64,
}

impl Window {
    /// Any time.
    pub const ALL_DAY: Self = Self {
        start_ms: 0,
        length_ms: DAY_MS,
    };

    pub(super) fn length_ms(self) -> i64 {
        self.length_ms
    }

    pub(super) fn contains(self, at: i64) -> bool {
        (at - self.start_ms).rem_euclid(DAY_MS) < self.length_ms
    }

    /// So much window time had passed at that moment. Between two windows it is that of the end.
    pub(super) fn passed(self, at: i64) -> i64 {
        let since = at - self.start_ms;
        let within = since.rem_euclid(DAY_MS).min(self.length_ms - 1);
        since.div_euclid(DAY_MS) * self.length_ms + within
    }

    /// The moment at which so much had passed.
    pub(super) fn moment(self, passed: i64) -> i64 {
        let days = passed.div_euclid(self.length_ms);
        days * DAY_MS + self.start_ms + passed.rem_euclid(self.length_ms)
    }

    /// How long it stays open.
    pub(super) fn left(self, at: i64) -> Duration {
        if self == Self::ALL_DAY {
            return Duration::MAX;
        }
        let left = self.length_ms - (at - self.start_ms).rem_euclid(DAY_MS);
        Duration::from_millis(u64::try_from(left).unwrap_or(0))
    }

    /// When it is open, from that moment on.
    pub(super) fn next(self, at: i64) -> i64 {
        if self.contains(at) {
            return at;
        }
        at + DAY_MS - (at - self.start_ms).rem_euclid(DAY_MS)
    }
}

impl FromStr for Window {
    type Err = String;

    /// `01:00-05:00`, or over midnight `22:30-04:00`; `all` is any time.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "all" {
            return Ok(Self::ALL_DAY);
        }
        let clock = |text: &str| {
            let (hours, minutes) = text.split_once(':')?;
            let number = |text: &str, max: i64| {
                let is_plain = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
                text.parse::<i64>().ok().filter(|it| is_plain && *it <= max)
            };
            Some((number(hours, 24)? * 60 + number(minutes, 59)?) * 60_000)
        };
        let both = text.split_once('-');
        let both = both.and_then(|(from, to)| clock(from).zip(clock(to)));
        match both {
            Some((start, end)) if start < DAY_MS && end <= DAY_MS && start != end => Ok(Self {
                start_ms: start,
                length_ms: (end - start - 1).rem_euclid(DAY_MS) + 1,
            }),
            _ => Err(format!(
                "'{text}' is no part of a day in UTC, like 01:00-05:00 or 22:30-04:00; all is the whole day"
            )),
        }
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::ALL_DAY {
            return f.write_str("all");
        }
        let clock = |ms: i64| format!("{:02}:{:02}", ms / 3_600_000, ms / 60_000 % 60);
        let end = (self.start_ms + self.length_ms) % DAY_MS;
        write!(f, "{}-{}", clock(self.start_ms), clock(end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_read_and_shown() {
        for text in ["01:00-05:00", "22:30-04:00", "23:00-00:00", "all"] {
            assert_eq!(text.parse::<Window>().unwrap().to_string(), text);
        }
        assert_eq!("00:00-24:00".parse::<Window>(), Ok(Window::ALL_DAY));
        for wrong in [
            "",
            "1-5",
            "01:00",
            "01:00-01:00",
            "25:00-01:00",
            "01:60-02:00",
            "+1:00-02:00",
            "24:00-01:00",
        ] {
            assert!(wrong.parse::<Window>().is_err(), "{wrong}");
        }
    }
}
