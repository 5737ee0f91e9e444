//! The floors of the house: a crate uses only crates that come before it here. `ARCHITECTURE.md` says what each is for.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// From the ground up; each line is a floor, and its order counts too.
const FLOORS: &[&[&str]] = &[
    &["proto", "oci", "cdi", "pattern"],
    &["llb", "fstree"],
    &["layer", "engine", "dockerfile", "why"],
    &["store"],
    &["session", "registry", "executor", "worker"],
    &["source"],
    &["ops"],
    &["frontend", "exporter"],
    &["remotecache"],
    &["daemon", "client"],
    &["kiln"],
];

/// The names of the house's crates that a manifest depends on, for whatever purpose and on whatever platform.
fn uses(manifest: &toml::Table) -> Vec<String> {
    let platforms = manifest.get("target").and_then(toml::Value::as_table);
    let tables = platforms.into_iter().flat_map(toml::Table::values).filter_map(toml::Value::as_table);
    tables
        .chain([manifest])
        .flat_map(|table| {
            ["dependencies", "dev-dependencies", "build-dependencies"].map(|kind| table.get(kind))
        })
        .flatten()
        .filter_map(toml::Value::as_table)
        .flat_map(toml::Table::keys)
        .filter_map(|name| name.strip_prefix("kiln-"))
        .map(str::to_owned)
        .collect()
}

fn crates() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the folder of all crates").to_owned()
}

/// Every crate, with the crates that it uses.
fn house() -> BTreeMap<String, Vec<String>> {
    let entries =
        std::fs::read_dir(crates()).expect("the crates").map(|entry| entry.expect("an entry").path());
    let rooms = entries.filter_map(|path| {
        let manifest: toml::Table =
            std::fs::read_to_string(path.join("Cargo.toml")).ok()?.parse().expect("a manifest");
        Some((path.file_name()?.to_str()?.to_owned(), uses(&manifest)))
    });
    rooms.collect()
}

#[test]
fn a_crate_uses_only_what_is_below_it() {
    let order: Vec<&str> = FLOORS.concat();
    let height = |name: &str| order.iter().position(|known| *known == name);
    let mut wrong = Vec::new();
    for (name, used) in house() {
        let Some(own) = height(&name) else {
            wrong.push(format!("crates/{name} is on no floor"));
            continue;
        };
        let above = used.iter().filter(|other| height(other).is_none_or(|other| other >= own));
        wrong.extend(above.map(|other| format!("{name} uses {other}, which is not below it")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_floor_is_lived_on() {
    let house = house();
    let missing: Vec<_> = FLOORS.concat().into_iter().filter(|name| !house.contains_key(*name)).collect();
    assert!(missing.is_empty(), "no such crates: {missing:?}");
}

#[test]
fn uses_are_found_in_every_table() {
    let manifest: toml::Table =
        "[dependencies]\nkiln-a.workspace = true\nserde = \"1\"\n[dev-dependencies]\nkiln-b = {}\n\
         [target.'cfg(unix)'.dependencies]\nkiln-c = { workspace = true }\n"
            .parse()
            .unwrap();
    let mut found = uses(&manifest);
    found.sort();
    assert_eq!(found, ["a", "b", "c"]);
}
