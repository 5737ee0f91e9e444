//! The seccomp filter of sandboxed processes, as a classic BPF program.
//!
//! ```text
//!   load arch
//!   x86-64?  → tree over its numbers        (x32 calls, number | 0x40000000: ENOSYS)
//!   i386?    → tree over its numbers
//!   else       kill
//! ```
//!
//! A tree is a binary search over ranges of numbers with one outcome each: seven comparisons decide a call, where the
//! usual list of comparisons takes up to four hundred. The program depends on the architecture only, so it is made once.

mod rules;
mod table;

use std::sync::OnceLock;

pub(super) use rules::{SyscallRules, rules};

/// What is done about a system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    /// It is made.
    Allow,
    /// `clone`: no new namespaces.
    Clone,
    /// `socket`: not of the families that reach the kernel's crypto code or the hypervisor's host.
    Socket,
    /// `personality`: only what changes nothing dangerous.
    Personality,
    /// It fails as if the kernel did not know it (`ENOSYS`): `clone3`, whose flags a filter cannot see.
    Missing,
    /// It fails with `EPERM`.
    Deny,
}

/// An instruction (`struct sock_filter`).
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Instruction {
    pub(super) code: u16,
    pub(super) jump_true: u8,
    pub(super) jump_false: u8,
    pub(super) k: u32,
}

const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA
const JUMP_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const JUMP_AT_LEAST: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
const JUMP_ANY_BIT: u16 = 0x45; // BPF_JMP | BPF_JSET | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K

const ALLOW: u32 = 0x7fff_0000; // SECCOMP_RET_ALLOW
const ERRNO: u32 = 0x0005_0000; // SECCOMP_RET_ERRNO
const KILL: u32 = 0x8000_0000; // SECCOMP_RET_KILL_PROCESS
const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

// Offsets in struct seccomp_data; arguments are 64 bits wide, of which the low half says it all here.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const ARGUMENT_0: u32 = if cfg!(target_endian = "big") { 20 } else { 16 };

const ARCH_X86_64: u32 = 0xc000_003e;
const ARCH_I386: u32 = 0x4000_0003;
const ARCH_AARCH64: u32 = 0xc000_00b7;
const X32_BIT: u32 = 0x4000_0000;

/// `CLONE_NEW*` of mount, cgroup, uts, ipc, user, pid and net.
const CLONE_NAMESPACES: u32 = 0x7e02_0000;
/// `AF_ALG` and `AF_VSOCK`.
const REFUSED_FAMILIES: [u32; 2] = [38, 40];
/// `PER_LINUX`, `PER_LINUX32`, both with `UNAME26`, and the question what it is.
const PERSONALITIES: [u32; 5] = [0, 8, 0x20000, 0x20008, 0xffff_ffff];

/// The filter of this machine's architecture; `None` if there is no table for it.
pub(super) fn filter() -> Option<&'static [Instruction]> {
    static FILTER: OnceLock<Option<Vec<Instruction>>> = OnceLock::new();
    FILTER
        .get_or_init(|| match std::env::consts::ARCH {
            "x86_64" => Some(program(&[(ARCH_X86_64, |row| row.2), (ARCH_I386, |row| row.3)])),
            "aarch64" => Some(program(&[(ARCH_AARCH64, |row| row.4)])),
            _ => None,
        })
        .as_deref()
}

type Column = fn(&table::Row) -> i16;

fn program(architectures: &[(u32, Column)]) -> Vec<Instruction> {
    let mut out = vec![op(LOAD, ARCH)];
    for &(arch, column) in architectures {
        let section = section(arch, column);
        out.push(Instruction { code: JUMP_EQUAL, jump_true: 1, jump_false: 0, k: arch });
        out.push(op(JUMP, length(&section)));
        out.extend(section);
    }
    out.push(op(RETURN, KILL));
    out
}

fn section(arch: u32, column: Column) -> Vec<Instruction> {
    let mut out = vec![op(LOAD, NUMBER)];
    if arch == ARCH_X86_64 {
        out.push(Instruction { code: JUMP_AT_LEAST, jump_true: 0, jump_false: 1, k: X32_BIT });
        out.push(op(RETURN, ERRNO | ENOSYS));
    }
    tree(&ranges(column), &mut out);
    out
}

/// Where each outcome begins, in ascending order from 0.
fn ranges(column: Column) -> Vec<(u32, Rule)> {
    let mut calls: Vec<(u32, Rule)> = table::TABLE
        .iter()
        .filter_map(|row| u32::try_from(column(row)).ok().map(|number| (number, row.1)))
        .collect();
    calls.sort_unstable_by_key(|call| call.0);
    let mut out: Vec<(u32, Rule)> = Vec::new();
    let mut next = 0;
    let mut push = |start: u32, rule: Rule| {
        if out.last().is_none_or(|last| last.1 != rule) {
            out.push((start, rule));
        }
    };
    for (number, rule) in calls {
        if number > next {
            push(next, Rule::Deny);
        }
        push(number, rule);
        next = number + 1;
    }
    push(next, Rule::Missing);
    out
}

fn tree(ranges: &[(u32, Rule)], out: &mut Vec<Instruction>) {
    if let [(_, rule)] = ranges {
        return leaf(*rule, out);
    }
    let (low, high) = ranges.split_at(ranges.len() / 2);
    let mut left = Vec::new();
    tree(low, &mut left);
    // Conditional jumps reach 255 instructions, this one any distance.
    out.push(Instruction { code: JUMP_AT_LEAST, jump_true: 0, jump_false: 1, k: high[0].0 });
    out.push(op(JUMP, length(&left)));
    out.extend(left);
    tree(high, out);
}

fn leaf(rule: Rule, out: &mut Vec<Instruction>) {
    let listed = |values: &[u32], matching: u32, other: u32, out: &mut Vec<Instruction>| {
        out.push(op(LOAD, ARGUMENT_0));
        for &value in values {
            out.push(Instruction { code: JUMP_EQUAL, jump_true: 0, jump_false: 1, k: value });
            out.push(op(RETURN, matching));
        }
        out.push(op(RETURN, other));
    };
    match rule {
        Rule::Allow => out.push(op(RETURN, ALLOW)),
        Rule::Deny => out.push(op(RETURN, ERRNO | EPERM)),
        Rule::Missing => out.push(op(RETURN, ERRNO | ENOSYS)),
        Rule::Clone => {
            out.push(op(LOAD, ARGUMENT_0));
            out.push(Instruction { code: JUMP_ANY_BIT, jump_true: 0, jump_false: 1, k: CLONE_NAMESPACES });
            out.push(op(RETURN, ERRNO | EPERM));
            out.push(op(RETURN, ALLOW));
        }
        Rule::Socket => listed(&REFUSED_FAMILIES, ERRNO | EPERM, ALLOW, out),
        Rule::Personality => listed(&PERSONALITIES, ALLOW, ERRNO | EPERM, out),
    }
}

fn op(code: u16, k: u32) -> Instruction {
    Instruction { code, jump_true: 0, jump_false: 0, k }
}

fn length(instructions: &[Instruction]) -> u32 {
    u32::try_from(instructions.len()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
