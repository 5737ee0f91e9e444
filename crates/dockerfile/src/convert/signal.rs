//! STOPSIGNAL: numbers and names of Linux signals.

use super::failure::refuse;
use crate::error::Error;
use crate::suggest::nearest;
use crate::text::upper;
use crate::word::Word;

const NAMES: &[&str] = &[
    "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL", "PIPE",
    "POLL", "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP", "TTIN", "TTOU",
    "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ", "RTMIN", "RTMAX",
];

/// Is it a signal: a number other than 0, or a name with or without `SIG`?
fn is_signal(s: &str) -> bool {
    if let Ok(number) = s.parse::<i64>() {
        return number != 0;
    }
    let upper = upper(s);
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let realtime = |prefix: &str, most: u32| {
        name.strip_prefix(prefix)
            .and_then(|n| n.parse::<u32>().ok().filter(|v| v.to_string() == n))
            .is_some_and(|n| (1..=most).contains(&n))
    };
    NAMES.contains(&name) || realtime("RTMIN+", 15) || realtime("RTMAX-", 14)
}

/// The error for a word that is no signal.
pub(super) fn check(name: &Word) -> Result<(), Error> {
    match is_signal(name) {
        true => Ok(()),
        false => Err(refuse(format!("invalid signal: {name}")).at(name.span).suggest(near(name))),
    }
}

/// The signal whose name is near to this one.
fn near(s: &str) -> Option<String> {
    let upper = upper(s);
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    nearest(name, NAMES.iter().copied()).map(|name| format!("SIG{name}"))
}

#[cfg(test)]
mod tests {
    use super::{is_signal, near};

    #[test]
    fn slips() {
        assert_eq!(near("SIGKIL").as_deref(), Some("SIGKILL"));
        assert_eq!(near("sigtrem").as_deref(), Some("SIGTERM"));
        assert_eq!(near("nothing"), None);
    }

    #[test]
    fn signals() {
        for good in ["9", "-1", "SIGTERM", "term", "SIGRTMIN+3", "RTMAX-14", "rtmin"] {
            assert!(is_signal(good), "{good}");
        }
        for bad in ["", "0", "SIGNOPE", "RTMIN+16", "RTMAX-15", "RTMIN+03", "RTMIN+0", "$X"] {
            assert!(!is_signal(bad), "{bad}");
        }
    }
}
