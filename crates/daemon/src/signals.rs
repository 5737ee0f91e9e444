//! Signals by their names, as clients send them.

/// The numbers that every Linux architecture which steps run on has in common.
const NAMES: &[(&str, i32)] = &[
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("IOT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("POLL", 29),
    ("PWR", 30),
    ("SYS", 31),
    ("UNUSED", 31),
];

/// The first and last realtime signals that programs may use.
const REALTIME: std::ops::RangeInclusive<i32> = 34..=64;

/// The number of the signal `name` (without `SIG`): `TERM`, `RTMIN+2`.
pub(crate) fn number(name: &str) -> Option<i32> {
    if let Some((_, number)) = NAMES.iter().find(|(known, _)| *known == name) {
        return Some(*number);
    }
    let (base, sign, rest) = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
        (Some(rest), _) => (*REALTIME.start(), '+', rest),
        (_, Some(rest)) => (*REALTIME.end(), '-', rest),
        _ => return None,
    };
    if rest.is_empty() {
        return Some(base);
    }
    let offset: i32 = rest.strip_prefix(sign)?.parse::<u8>().ok()?.into();
    let number = if sign == '+' { base + offset } else { base - offset };
    REALTIME.contains(&number).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn names_have_their_numbers() {
        for (name, known) in [
            ("KILL", Some(9)),
            ("TERM", Some(15)),
            ("RTMIN", Some(34)),
            ("RTMIN+15", Some(49)),
            ("RTMAX-1", Some(63)),
            ("RTMAX+1", None),
            ("RTMIN+31", None),
            ("RTMIN-1", None),
            ("RTMIN+-1", None),
            ("SIGKILL", None),
            ("kill", None),
            ("9", None),
            ("", None),
        ] {
            assert_eq!(number(name), known, "{name}");
        }
    }
}
