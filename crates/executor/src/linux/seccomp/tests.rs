//! The filter against the table, by an interpreter of the few instructions that it uses.

use super::*;

fn decide(program: &[Instruction], arch: u32, number: u32, argument: u32) -> u32 {
    let (mut accumulator, mut at) = (0, 0usize);
    for _ in 0..program.len() {
        let i = program[at];
        at += 1;
        let mut branch = |taken: bool| at += usize::from(if taken { i.jump_true } else { i.jump_false });
        match i.code {
            LOAD => {
                accumulator = match i.k {
                    NUMBER => number,
                    ARCH => arch,
                    ARGUMENT_0 => argument,
                    other => panic!("loads {other}"),
                }
            }
            JUMP => at += i.k as usize,
            JUMP_EQUAL => branch(accumulator == i.k),
            JUMP_AT_LEAST => branch(accumulator >= i.k),
            JUMP_ANY_BIT => branch(accumulator & i.k != 0),
            RETURN => return i.k,
            other => panic!("instruction {other:#x}"),
        }
    }
    panic!("no decision");
}

fn x86() -> Vec<Instruction> {
    program(&[(ARCH_X86_64, |row| row.2), (ARCH_I386, |row| row.3)])
}

#[test]
fn every_number_is_decided_as_the_table_says() {
    let program = x86();
    for (arch, column) in [(ARCH_X86_64, (|row| row.2) as Column), (ARCH_I386, |row| row.3)] {
        let highest = table::TABLE.iter().map(column).max().unwrap();
        for number in 0..600 {
            let rule = table::TABLE.iter().find(|row| i32::from(column(row)) == number).map(|row| row.1);
            let expected = match rule {
                _ if number > i32::from(highest) => ERRNO | ENOSYS,
                None => ERRNO | EPERM,
                Some(Rule::Missing) => ERRNO | ENOSYS,
                // Argument 0: a plain clone, AF_UNSPEC, PER_LINUX.
                Some(_) => ALLOW,
            };
            assert_eq!(decide(&program, arch, number as u32, 0), expected, "{arch:#x} {number}");
        }
    }
}

#[test]
fn dangerous_arguments_are_refused() {
    let program = x86();
    let call = |name: &str, argument| {
        let row = table::TABLE.iter().find(|row| row.0 == name).unwrap();
        decide(&program, ARCH_X86_64, row.2 as u32, argument)
    };
    for flag in [0x2_0000, 0x200_0000, 0x400_0000, 0x800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000] {
        assert_eq!(call("clone", flag | 17), ERRNO | EPERM, "{flag:#x}");
    }
    assert_eq!(call("clone", 17), ALLOW);
    assert_eq!(call("clone3", 0), ERRNO | ENOSYS);
    assert_eq!(call("socket", 38), ERRNO | EPERM);
    assert_eq!(call("socket", 39), ALLOW);
    assert_eq!(call("socket", 40), ERRNO | EPERM);
    assert_eq!(call("socket", 2), ALLOW);
    assert_eq!(call("personality", 0x20008), ALLOW);
    assert_eq!(call("personality", 0x4_0000), ERRNO | EPERM);
}

#[test]
fn other_architectures_and_x32_do_not_get_in() {
    let program = x86();
    assert_eq!(decide(&program, ARCH_AARCH64, 0, 0), KILL);
    assert_eq!(decide(&program, ARCH_X86_64, X32_BIT | 1, 0), ERRNO | ENOSYS);
}

#[test]
fn what_needs_more_than_the_default_capabilities_is_not_listed() {
    for name in [
        "mount",
        "umount2",
        "unshare",
        "setns",
        "bpf",
        "kexec_load",
        "keyctl",
        "add_key",
        "open_by_handle_at",
        "init_module",
        "io_uring_setup",
        "userfaultfd",
        "move_mount",
        "open_tree",
        "pivot_root",
        "reboot",
        "swapon",
    ] {
        assert!(table::TABLE.iter().all(|row| row.0 != name), "{name}");
    }
}

#[test]
fn names_are_sorted_and_numbers_unique() {
    assert!(table::TABLE.is_sorted_by(|a, b| a.0 < b.0));
    for column in [(|row| row.2) as Column, |row| row.3, |row| row.4] {
        let mut numbers: Vec<i16> = table::TABLE.iter().map(column).filter(|n| *n >= 0).collect();
        let all = numbers.len();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), all);
    }
}

#[test]
fn the_program_is_short_enough_for_the_kernel() {
    assert!(x86().len() < 4096, "{}", x86().len());
}
