//! Which devices a confined container may use: make any node, open none but the harmless.

use std::io;
use std::path::Path;

use super::super::sys::BpfInstruction;

/// Rules of the v1 controller, after "nothing".
const RULES: [&str; 10] = [
    "c *:* m",
    "b *:* m",
    "c 1:3 rwm",
    "c 1:5 rwm",
    "c 1:7 rwm",
    "c 1:8 rwm",
    "c 1:9 rwm",
    "c 5:0 rwm",
    "c 5:2 rwm",
    "c 136:* rwm",
];

/// Sets the rules of a cgroup of the v1 `devices` controller.
pub(super) fn confine_legacy(folder: &Path) -> io::Result<()> {
    std::fs::write(folder.join("devices.deny"), "a")?;
    RULES.iter().try_for_each(|rule| std::fs::write(folder.join("devices.allow"), rule))
}

/// Attaches the same rules to a v2 cgroup, as a program.
pub(super) fn confine(folder: &Path) -> io::Result<()> {
    super::attach_program(folder, &program())
}

/// The program: its first argument points to `struct bpf_cgroup_dev_ctx`, which is access (high half: 1 make, 2 read,
/// 4 write) and type (low half: 1 block, 2 character), major, minor. It returns 1 to allow.
fn program() -> Vec<BpfInstruction> {
    const MAKE: i32 = 1;
    const CHARACTER: i32 = 2;
    /// Major number and minor numbers of devices that may be opened.
    const OPEN: [(i32, &[i32]); 2] = [(1, &[3, 5, 7, 8, 9]), (5, &[0, 2])];
    const TERMINALS: i32 = 136;
    const CONTEXT: u8 = 1;
    const TYPE: u8 = 2;
    const ACCESS: u8 = 3;
    const MAJOR: u8 = 4;
    const MINOR: u8 = 5;

    let op = |code, destination: u8, source: u8, offset, immediate| BpfInstruction {
        code,
        registers: if cfg!(target_endian = "big") {
            destination << 4 | source
        } else {
            source << 4 | destination
        },
        offset,
        immediate,
    };
    let load = |register, offset| op(0x61, register, CONTEXT, offset, 0);
    let not_equal = |register, value, skip| op(0x55, register, 0, skip, value);
    let answer = |allow| [op(0xb7, 0, 0, 0, allow), op(0x95, 0, 0, 0, 0)];

    let mut out = vec![
        load(TYPE, 0),
        op(0xbf, ACCESS, TYPE, 0, 0),
        op(0x57, TYPE, 0, 0, 0xffff),
        op(0x77, ACCESS, 0, 0, 16),
        load(MAJOR, 4),
        load(MINOR, 8),
        not_equal(ACCESS, MAKE, 2),
    ];
    out.extend(answer(1));
    out.push(op(0x15, TYPE, 0, 2, CHARACTER));
    out.extend(answer(0));
    for (major, minors) in OPEN {
        for minor in minors {
            out.extend([not_equal(MAJOR, major, 3), not_equal(MINOR, *minor, 2)]);
            out.extend(answer(1));
        }
    }
    out.push(not_equal(MAJOR, TERMINALS, 2));
    out.extend(answer(1));
    out.extend(answer(0));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the few instructions that the program is made of.
    fn allowed(kind: u32, access: u32, major: u32, minor: u32) -> bool {
        let program = program();
        let context = [access << 16 | kind, major, minor];
        let (mut registers, mut at) = ([0u64; 11], 0usize);
        loop {
            let i = program[at];
            let (destination, source) = (usize::from(i.registers & 15), usize::from(i.registers >> 4));
            at += 1;
            match i.code {
                0x61 => registers[destination] = u64::from(context[i.offset as usize / 4]),
                0xbf => registers[destination] = registers[source],
                0x57 => registers[destination] &= i.immediate as u64,
                0x77 => registers[destination] >>= i.immediate,
                0xb7 => registers[destination] = i.immediate as u64,
                0x15 if registers[destination] == i.immediate as u64 => at += i.offset as usize,
                0x55 if registers[destination] != i.immediate as u64 => at += i.offset as usize,
                0x15 | 0x55 => {}
                0x95 => return registers[0] == 1,
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    #[test]
    fn nodes_can_be_made_but_only_harmless_ones_opened() {
        let (make, read, write) = (1, 2, 4);
        assert!(allowed(1, make, 8, 0) && allowed(2, make, 10, 200));
        for (major, minor) in [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2), (136, 7)] {
            assert!(allowed(2, read | write, major, minor), "{major}:{minor}");
            assert!(!allowed(1, read, major, minor), "block {major}:{minor}");
        }
        for (major, minor) in [(1, 1), (1, 2), (1, 4), (1, 11), (5, 1), (10, 200), (254, 0)] {
            assert!(!allowed(2, read, major, minor), "{major}:{minor}");
            assert!(!allowed(2, make | write, major, minor), "{major}:{minor}");
        }
        assert!(!allowed(1, read | write, 254, 0));
    }
}
