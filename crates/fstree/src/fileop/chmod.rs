//! Modes as chmod(1) takes them: octal, or changes such as `u=rwX,go-w`.

use crate::error::{Error, Result};

const SETUID: u32 = 0o4000;
const SETGID: u32 = 0o2000;
const STICKY: u32 = 0o1000;
/// All that `a` means; the sticky bit is only ever named by `t`.
const ALL: u32 = SETUID | SETGID | 0o777;

/// A parsed mode: changes that are made one after the other. There is no umask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ModeChange {
    steps: Vec<Step>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Clear(u32),
    Set(u32),
    /// Sets execute bits if the file had one before any change, or is a folder.
    SetIfExecutable(u32),
    /// Changes the classes whose read bits are in `to` by the three bits of the class that is `from` to the right.
    Copy {
        from: u32,
        to: u32,
        op: Op,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Op {
    Add,
    Remove,
    Assign,
}

impl ModeChange {
    pub(super) fn parse(text: &str) -> Result<Self> {
        let invalid = || Error::Refused(format!("invalid mode {text:?}"));
        if text.starts_with(|c: char| c.is_ascii_digit()) {
            let bits =
                u32::from_str_radix(text, 8).ok().filter(|bits| *bits <= 0o7777).ok_or_else(invalid)?;
            return Ok(Self { steps: vec![Step::Clear(0o7777), Step::Set(bits)] });
        }
        let mut steps = Vec::new();
        for clause in text.split(',') {
            parse_clause(clause, &mut steps).ok_or_else(invalid)?;
        }
        Ok(Self { steps })
    }

    /// The mode bits after all changes to `mode`.
    pub(super) fn apply(&self, mode: u32, is_dir: bool) -> u32 {
        let executable = is_dir || mode & 0o111 != 0;
        self.steps.iter().fold(mode & 0o7777, |mode, step| match *step {
            Step::Clear(bits) => mode & !bits,
            Step::Set(bits) => mode | bits,
            Step::SetIfExecutable(bits) if executable => mode | bits,
            Step::SetIfExecutable(_) => mode,
            Step::Copy { from, to, op } => {
                let value = mode >> from & 0o7;
                let classes = |value: u32| {
                    [6, 3, 0]
                        .iter()
                        .fold(0, |bits, at| if to & 0o4 << at != 0 { bits | value << at } else { bits })
                };
                match op {
                    Op::Add => mode | classes(value),
                    Op::Remove => mode & !classes(value),
                    Op::Assign => mode & !classes(0o7) | classes(value),
                }
            }
        })
    }
}

/// `None` if it is malformed.
fn parse_clause(clause: &str, steps: &mut Vec<Step>) -> Option<()> {
    let actions = clause.trim_start_matches(['u', 'g', 'o', 'a']);
    let who = clause[..clause.len() - actions.len()].bytes().fold(0, |who, c| match c {
        b'u' => who | SETUID | 0o700,
        b'g' => who | SETGID | 0o070,
        b'o' => who | 0o007,
        _ => who | ALL,
    });
    let mut rest = actions.bytes().peekable();
    rest.peek()?;
    while let Some(op) = rest.next() {
        let op = match op {
            b'+' => Op::Add,
            b'-' => Op::Remove,
            b'=' => Op::Assign,
            _ => return None,
        };
        let mut letters = Vec::new();
        while let Some(letter) = rest.next_if(|c| !matches!(c, b'+' | b'-' | b'=')) {
            letters.push(letter);
        }
        parse_action(op, who, &letters, steps)?;
    }
    Some(())
}

fn parse_action(op: Op, who: u32, letters: &[u8], steps: &mut Vec<Step>) -> Option<()> {
    let (mut bits, mut sticky, mut if_executable, mut copied) = (0, 0, 0, Vec::new());
    for letter in letters {
        match letter {
            b'r' => bits |= 0o444,
            b'w' => bits |= 0o222,
            b'x' => bits |= 0o111,
            b'X' if op == Op::Remove => bits |= 0o111,
            b'X' => if_executable = 0o111,
            // For others alone there is nothing that these could mean.
            b's' if who == 0 || who & !0o007 != 0 => bits |= SETUID | SETGID,
            b't' if who == 0 || who & !0o007 != 0 => sticky = STICKY,
            b's' | b't' => {}
            b'u' => copied.push(6),
            b'g' => copied.push(3),
            b'o' => copied.push(0),
            _ => return None,
        }
    }
    let reach = |bits: u32| if who == 0 { bits } else { bits & who };
    if op == Op::Assign && (copied.is_empty() || bits | sticky != 0) {
        steps.push(Step::Clear(if who == 0 { ALL } else { who } | sticky));
    }
    let named = reach(bits) | sticky;
    steps.push(if op == Op::Remove { Step::Clear(named) } else { Step::Set(named) });
    if if_executable != 0 {
        steps.push(Step::SetIfExecutable(reach(if_executable)));
    }
    let to = if who == 0 { 0o777 } else { who & 0o777 };
    steps.extend(copied.into_iter().map(|from| Step::Copy { from, to, op }));
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes() {
        for (text, mode, is_dir, want) in [
            ("755", 0o4640, false, 0o755),
            ("4755", 0, false, 0o4755),
            ("+x", 0o644, false, 0o755),
            ("u+x", 0o644, false, 0o744),
            ("a-w", 0o666, false, 0o444),
            ("go=", 0o777, false, 0o700),
            ("u=rwX,go=rX", 0o600, false, 0o644),
            ("u=rwX,go=rX", 0o711, false, 0o755),
            ("u=rwX,go=rX", 0o600, true, 0o755),
            ("a-w,g+s", 0o644, false, 0o2444),
            ("g=u", 0o750, false, 0o770),
            ("go=u-w", 0o750, false, 0o755),
            ("o=g", 0o654, false, 0o655),
            ("g-u", 0o577, false, 0o527),
            ("=rw,+X", 0o711, false, 0o777),
            ("=rw,+X", 0o600, false, 0o666),
            ("u+s", 0o755, false, 0o4755),
            ("+s", 0o755, false, 0o6755),
            ("o+s", 0o755, false, 0o755),
            ("+t", 0o755, true, 0o1755),
            ("a=rx", 0o7777, false, 0o1555),
            ("a=t", 0o777, false, 0o1000),
            ("-X", 0o777, false, 0o666),
            ("u+", 0o640, false, 0o640),
            ("ug+rw,o-rwx", 0o107, false, 0o760),
            ("u+r-w+x", 0o200, false, 0o500),
        ] {
            let change = ModeChange::parse(text).expect(text);
            assert_eq!(
                change.apply(mode, is_dir),
                want,
                "{text} of {mode:o}: {:o}",
                change.apply(mode, is_dir)
            );
        }
    }

    #[test]
    fn malformed() {
        for text in
            ["", "u", "8", "77777", "12345678901234567890", "u+y", "u+r,", ",u+r", "x", "rw", "u=r g=w", "+é"]
        {
            assert!(ModeChange::parse(text).is_err(), "{text:?}");
        }
    }
}
