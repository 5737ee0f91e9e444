//! Which devices a confined container may use: make any node, open none but the harmless.

use std::io;
use std::path::Path;

use rustix::fs::FileType;

use super::super::device::Device;
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

/// Sets the rules of a cgroup of the v1 `devices` controller, with those of some `devices`.
pub(super) fn confine_legacy(folder: &Path, devices: &[Device]) -> io::Result<()> {
    std::fs::write(folder.join("devices.deny"), "a")?;
    let allow = |rule: &str| std::fs::write(folder.join("devices.allow"), rule);
    RULES.iter().try_for_each(|rule| allow(rule))?;
    devices.iter().filter_map(rule).try_for_each(|rule| allow(&rule))
}

/// The rule of a device. A pipe needs none.
fn rule(device: &Device) -> Option<String> {
    let (node, letters) = (&device.node, device.access.letters());
    (device.kind() != FileType::Fifo)
        .then(|| format!("{} {}:{} {letters}", device.letter(), node.major, node.minor))
}

/// Attaches the same rules to a v2 cgroup, as a program.
pub(super) fn confine(folder: &Path, devices: &[Device]) -> io::Result<()> {
    super::attach_program(folder, &program(devices))
}

/// The program: its first argument points to `struct bpf_cgroup_dev_ctx`, which is access (high half: 1 make, 2 read,
/// 4 write) and type (low half: 1 block, 2 character), major, minor. It returns 1 to allow.
fn program(devices: &[Device]) -> Vec<BpfInstruction> {
    const MAKE: i32 = 1;
    const READ: i32 = 2;
    const WRITE: i32 = 4;
    const BLOCK: i32 = 1;
    const CHARACTER: i32 = 2;
    /// Major number and minor numbers of devices that may be opened.
    const OPEN: [(i32, &[i32]); 2] = [(1, &[3, 5, 7, 8, 9]), (5, &[0, 2])];
    const TERMINALS: i32 = 136;
    const CONTEXT: u8 = 1;
    const TYPE: u8 = 2;
    const ACCESS: u8 = 3;
    const MAJOR: u8 = 4;
    const MINOR: u8 = 5;
    const DENIED: u8 = 6;

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
    for device in devices.iter().filter(|device| device.kind() != FileType::Fifo) {
        let kind = if device.kind() == FileType::BlockDevice { BLOCK } else { CHARACTER };
        let access = device.access;
        let all = [(access.make, MAKE), (access.read, READ), (access.write, WRITE)];
        let denied = all.into_iter().filter(|(allowed, _)| !allowed).fold(0, |denied, (_, bit)| denied | bit);
        out.extend([
            not_equal(TYPE, kind, 7),
            // Both are checked to be small.
            not_equal(MAJOR, device.node.major as i32, 6),
            not_equal(MINOR, device.node.minor as i32, 5),
            op(0xbf, DENIED, ACCESS, 0, 0),
            op(0x57, DENIED, 0, 0, denied),
            not_equal(DENIED, 0, 2),
        ]);
        out.extend(answer(1));
    }
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
        allowed_with(&[], kind, access, major, minor)
    }

    fn allowed_with(devices: &[Device], kind: u32, access: u32, major: u32, minor: u32) -> bool {
        let program = program(devices);
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

    fn device(kind: kiln_cdi::DeviceKind, major: u32, minor: u32, permissions: &str) -> Device {
        let node = kiln_cdi::DeviceNode {
            path: "/dev/x".into(),
            host_path: "/dev/there/is/none".into(),
            kind: Some(kind),
            major,
            minor,
            mode: None,
            permissions: permissions.into(),
            uid: None,
            gid: None,
        };
        super::super::super::device::resolve(&[node]).unwrap().remove(0)
    }

    #[test]
    fn given_devices_can_be_used_as_they_were_given() {
        use kiln_cdi::DeviceKind::{Block, Character, Pipe};
        let (make, read, write) = (1, 2, 4);
        let devices = [
            device(Character, 195, 0, ""),
            device(Block, 8, 1, "r"),
            device(Pipe, 0, 0, ""),
            device(Character, 10, 200, "rw"),
        ];
        let may = |kind, access, major, minor| allowed_with(&devices, kind, access, major, minor);
        assert!(may(2, read | write, 195, 0) && may(2, make | read | write, 195, 0));
        assert!(may(1, read, 8, 1) && may(2, read | write, 10, 200));
        assert!(!may(1, write, 8, 1) && !may(1, read | write, 8, 1) && !may(2, make | read, 10, 200));
        // Neither their neighbours nor the other kind.
        assert!(!may(2, read, 195, 1) && !may(1, read, 195, 0) && !may(2, read, 8, 1) && !may(1, read, 8, 0));
        assert!(may(2, read | write, 1, 3) && !may(2, read, 1, 1) && may(1, make, 8, 0));
        let rules: Vec<String> = devices.iter().filter_map(rule).collect();
        assert_eq!(rules, ["c 195:0 rwm", "b 8:1 r", "c 10:200 rw"]);
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
