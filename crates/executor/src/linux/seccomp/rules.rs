//! The same policy in the words of the OCI runtime specification, for runtimes that make their own filter.

use serde::Serialize;

use super::{CLONE_NAMESPACES, ENOSYS, PERSONALITIES, REFUSED_FAMILIES, Rule, table};

/// Some system calls and what is done about them.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(in super::super) struct SyscallRules {
    names: Vec<&'static str>,
    action: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    errno_ret: Option<u32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    args: Vec<Argument>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Argument {
    index: u32,
    value: u64,
    value_two: u64,
    op: &'static str,
}

/// The whole policy.
pub(in super::super) fn rules() -> Vec<SyscallRules> {
    let allow = |names, args| SyscallRules { names, action: "SCMP_ACT_ALLOW", errno_ret: None, args };
    let argument =
        |value: u32, value_two: u64, op| vec![Argument { index: 0, value: u64::from(value), value_two, op }];
    let plain = table::TABLE.iter().filter(|row| row.1 == Rule::Allow).map(|row| row.0).collect();
    let mut out = vec![allow(plain, Vec::new())];
    for row in table::TABLE {
        match row.1 {
            Rule::Allow | Rule::Deny => {}
            Rule::Clone => out.push(allow(vec![row.0], argument(CLONE_NAMESPACES, 0, "SCMP_CMP_MASKED_EQ"))),
            Rule::Missing => out.push(SyscallRules {
                names: vec![row.0],
                action: "SCMP_ACT_ERRNO",
                errno_ret: Some(ENOSYS),
                args: Vec::new(),
            }),
            Rule::Personality => {
                out.extend(PERSONALITIES.map(|value| allow(vec![row.0], argument(value, 0, "SCMP_CMP_EQ"))));
            }
            Rule::Socket => {
                // Rules about one argument are alternatives: below, between and above the two families.
                let [first, second] = REFUSED_FAMILIES;
                out.push(allow(vec![row.0], argument(first, 0, "SCMP_CMP_LT")));
                for between in first + 1..second {
                    out.push(allow(vec![row.0], argument(between, 0, "SCMP_CMP_EQ")));
                }
                out.push(allow(vec![row.0], argument(second, 0, "SCMP_CMP_GT")));
            }
        }
    }
    out
}
