//! Where devices are described, by flags and `[cdi]`.

use std::path::PathBuf;

use kiln_cdi::Registry;
use kiln_daemon::config::CdiTable;

use super::Flags;

/// The usual folders; a device of a later one wins.
const FOLDERS: [&str; 3] = ["/etc/cdi", "/var/run/cdi", "/etc/buildkit/cdi"];

/// The folders and what every build may use; `None`: devices are switched off.
pub(super) fn registry(flags: &Flags, table: &CdiTable) -> Option<Registry> {
    if flags.cdi_disabled.or(table.disabled) == Some(true) {
        return None;
    }
    let given = [Some(&flags.cdi_spec_dir), table.spec_dirs.as_ref()];
    let folders = given.into_iter().flatten().find(|folders| !folders.is_empty()).cloned();
    let folders = folders.unwrap_or_else(|| FOLDERS.map(PathBuf::from).into());
    Some(Registry { folders, auto_allowed: table.auto_allowed.clone().unwrap_or_default() })
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    fn folders(flags: &[&str], table: &str) -> Option<Vec<String>> {
        let flags = Flags::parse_from(["buildkitd"].iter().chain(flags));
        let table: CdiTable = toml::from_str(table).unwrap();
        let all = registry(&flags, &table)?.folders;
        Some(all.iter().map(|folder| folder.display().to_string()).collect())
    }

    #[test]
    fn a_flag_wins_over_its_key() {
        let table = "specDirs = [\"/a\", \"/b\"]";
        assert_eq!(folders(&[], "").unwrap(), FOLDERS);
        assert_eq!(folders(&[], "specDirs = []").unwrap(), FOLDERS);
        assert_eq!(folders(&[], table).unwrap(), ["/a", "/b"]);
        assert_eq!(folders(&["--cdi-spec-dir", "/c", "--cdi-spec-dir=/d"], table).unwrap(), ["/c", "/d"]);
    }

    #[test]
    fn devices_are_offered_unless_they_are_switched_off() {
        assert_eq!(folders(&["--cdi-disabled"], ""), None);
        assert_eq!(folders(&[], "disabled = true"), None);
        assert!(folders(&["--cdi-disabled=false"], "disabled = true").is_some());
    }

    #[test]
    fn what_every_build_may_use_comes_from_the_file() {
        let table: CdiTable = toml::from_str("autoAllowed = [\"vendor.com/gpu\"]").unwrap();
        let registry = registry(&Flags::parse_from(["buildkitd"]), &table).unwrap();
        assert_eq!(registry.auto_allowed, ["vendor.com/gpu"]);
    }
}
