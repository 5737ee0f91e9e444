//! The image config: what the frontend gave, made true for the layers that were exported.
//!
//! Unknown fields and the order inside of fields stay; top-level fields are sorted by name, as the reference writes them.

use std::collections::BTreeMap;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use kiln_oci::{Digest, History, ImageConfig, Platform, RootFs, Time, default_path_env, gojson};
use serde_json::Value;

use crate::{
    error::{Error, Result},
    source::{Layer, refuse_null},
};

/// The field of an image config that holds the records of a cache, whose layers are the image's.
const INLINE_CACHE: &str = "moby.buildkit.cache.v0";

const COMMENT: &str = "buildkit.exporter.image.v0";

/// The config of a result that has none: of the host's platform, with a PATH.
pub(super) fn empty(platform: &Platform) -> ImageConfig {
    let mut config = ImageConfig::empty(platform);
    config.config.working_dir = "/".to_owned();
    if !platform.is_windows() {
        config.config.env = vec![format!("PATH={}", default_path_env(&platform.os))];
    }
    config
}

/// Writes the config anew: root file system and history follow `layers`, dates follow `epoch` (seconds since 1970), except
/// those of history entries that `base` has too. `cache` is what the image carries along of the build's cache.
///
/// # Errors
///
/// [`Error::Result`] for a config without os or architecture, [`Error::Json`] for one that is no config at all.
pub(super) fn patch(
    json: &[u8],
    layers: &[Layer],
    epoch: Option<i64>,
    base: Option<&ImageConfig>,
    cache: Option<&[u8]>,
) -> Result<Vec<u8>> {
    refuse_null(json)?;
    let config = ImageConfig::decode(json).map_err(Error::json("the image config"))?;
    for (field, value) in [("os", &config.os), ("architecture", &config.architecture)] {
        if value.is_empty() {
            return Err(Error::Result(format!("the image config has no {field}")));
        }
    }
    let mut fields: BTreeMap<String, Value> =
        serde_json::from_slice(json).map_err(Error::json("the image config"))?;
    let mut history = complete(config.history, layers);
    let diff_ids: Vec<Digest> = layers.iter().map(|layer| layer.diff_id.clone()).collect();
    let encode = |value: &dyn erased::Encode| value.encode().map_err(Error::json("the image config"));
    fields.insert("rootfs".into(), encode(&RootFs { diff_ids, ..RootFs::default() })?);

    if let Some(epoch) = epoch.map(Time::from_unix) {
        clamp(&mut history, &epoch, base.map(|base| base.history.as_slice()).unwrap_or_default());
        if config.created.as_ref().is_some_and(|created| later(created, &epoch)) {
            fields.insert("created".into(), encode(&epoch)?);
        }
    }
    if config.created.is_none() {
        let last = history.iter().rev().find_map(|entry| entry.created.clone());
        fields.insert("created".into(), encode(&last)?);
    }
    fields.insert("history".into(), encode(&history)?);
    if let Some(cache) = cache {
        fields.insert(INLINE_CACHE.into(), BASE64_STANDARD.encode(cache).into());
    }
    gojson::to_vec(&fields).map_err(Error::json("the image config"))
}

/// One closure for values of several types.
mod erased {
    pub(super) trait Encode {
        fn encode(&self) -> serde_json::Result<serde_json::Value>;
    }

    impl<T: serde::Serialize> Encode for T {
        fn encode(&self) -> serde_json::Result<serde_json::Value> {
            serde_json::to_value(self)
        }
    }
}

fn later(time: &Time, than: &Time) -> bool {
    time.timestamp() > than.timestamp()
}

/// Makes the history tell of exactly the layers there are, each entry with a date.
fn complete(mut history: Vec<History>, layers: &[Layer]) -> Vec<History> {
    let mut told = 0;
    for entry in history.iter_mut().filter(|entry| !entry.empty_layer) {
        if told == layers.len() {
            // More than there are: the rest made none.
            entry.empty_layer = true;
        } else {
            told += 1;
        }
    }
    history.extend(layers[told..].iter().map(|layer| History {
        created: layer.created.clone(),
        created_by: if layer.description.is_empty() {
            "created by buildkit".to_owned()
        } else {
            layer.description.clone()
        },
        comment: COMMENT.into(),
        ..History::default()
    }));
    let of_layers = history.iter_mut().filter(|entry| !entry.empty_layer);
    for (entry, layer) in of_layers.zip(layers) {
        if entry.created.is_none() {
            entry.created.clone_from(&layer.created);
        }
    }
    date(&mut history);
    history
}

/// Gives entries without a date that of the entry before, or, where the undated ones begin, that of the first dated one
/// after them: so the first command on top of a base image does not carry the base's date.
fn date(history: &mut [History]) {
    let first_undated = history.iter().position(|entry| entry.created.is_none());
    let after = first_undated.and_then(|at| history[at..].iter().find_map(|entry| entry.created.clone()));
    let last = || history.iter().rev().find_map(|entry| entry.created.clone());
    let mut current = after.or_else(last);
    let mut undated_before = false;
    for entry in history {
        match &entry.created {
            None => {
                undated_before = true;
                entry.created.clone_from(&current);
            }
            Some(created) if undated_before => current = Some(created.clone()),
            Some(_) => {}
        }
    }
}

/// No entry is younger than `epoch`, and those without a date get it; leading entries that `base` has are left alone.
fn clamp(history: &mut [History], epoch: &Time, base: &[History]) {
    let shared = history.iter().zip(base).take_while(|(ours, theirs)| ours == theirs).count();
    for entry in &mut history[shared..] {
        if entry.created.as_ref().is_none_or(|created| later(created, epoch)) {
            entry.created = Some(epoch.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use kiln_oci::Descriptor;

    use super::*;

    fn layer(name: &str, created: Option<i64>) -> Layer {
        Layer {
            descriptor: Descriptor::of("t", name.as_bytes()),
            diff_id: Digest::sha256(name),
            created: created.map(Time::from_unix),
            description: name.to_owned(),
            repositories: Vec::new(),
        }
    }

    fn entry(by: &str, created: Option<i64>, empty_layer: bool) -> History {
        let created = created.map(Time::from_unix);
        History { created, created_by: by.into(), empty_layer, ..History::default() }
    }

    fn dates(history: &[History]) -> Vec<i64> {
        history.iter().map(|entry| entry.created.as_ref().map_or(-1, Time::unix)).collect()
    }

    #[test]
    fn undated_entries_take_the_date_of_new_layers() {
        let history = vec![
            entry("base", Some(10), false),
            entry("ENV", None, true),
            entry("RUN", None, false),
            entry("CMD", None, true),
            entry("COPY", None, false),
            entry("USER", None, true),
        ];
        let layers = [layer("base", Some(99)), layer("run", Some(20)), layer("copy", Some(30))];
        assert_eq!(dates(&complete(history, &layers)), [10, 20, 20, 20, 30, 30]);
    }

    #[test]
    fn without_new_layers_the_last_date_counts() {
        let history =
            vec![entry("base", Some(10), false), entry("more", Some(12), false), entry("ENV", None, true)];
        assert_eq!(dates(&complete(history, &[layer("a", None), layer("b", None)])), [10, 12, 12]);
    }

    #[test]
    fn the_history_tells_of_the_layers_there_are() {
        let missing = complete(vec![entry("a", Some(1), false)], &[layer("a", Some(5)), layer("b", Some(6))]);
        assert_eq!((missing[1].created_by.as_str(), &*missing[1].comment), ("b", COMMENT));
        assert_eq!(dates(&missing), [1, 6]);
        let surplus =
            complete(vec![entry("a", None, false), entry("b", None, false)], &[layer("a", Some(5))]);
        assert!(!surplus[0].empty_layer && surplus[1].empty_layer);
    }

    #[test]
    fn fields_are_kept_and_sorted() {
        let json = br#"{"os":"linux","x":{"b":1,"a":"<"},"architecture":"amd64","config":{"Cmd":["sh"]},"history":[]}"#;
        let patched = patch(json, &[layer("a", Some(0))], None, None, Some(b"[]")).expect("patch");
        let expected = format!(
            concat!(
                r#"{{"architecture":"amd64","config":{{"Cmd":["sh"]}},"created":"1970-01-01T00:00:00Z","#,
                r#""history":[{{"created":"1970-01-01T00:00:00Z","created_by":"a","comment":"buildkit.exporter.image.v0"}}],"#,
                r#""moby.buildkit.cache.v0":"W10=","os":"linux","rootfs":{{"type":"layers","diff_ids":["{}"]}},"x":{{"b":1,"a":"\u003c"}}}}"#
            ),
            Digest::sha256("a")
        );
        assert_eq!(String::from_utf8(patched).expect("text"), expected);
    }

    #[test]
    fn an_epoch_bounds_new_entries_and_the_image() {
        let base = ImageConfig { history: vec![entry("base", Some(1000), false)], ..ImageConfig::default() };
        let json = r#"{"os":"linux","architecture":"amd64","created":"2020-01-01T00:00:00Z","history":[
            {"created":"1970-01-01T00:16:40Z","created_by":"base"},
            {"created":"1970-01-01T00:00:50Z","created_by":"old","empty_layer":true},
            {"created_by":"new"}]}"#;
        let layers = [layer("base", None), layer("new", Some(2000))];
        let patched = patch(json.as_bytes(), &layers, Some(100), Some(&base), None).expect("patch");
        let config = ImageConfig::decode(&patched).expect("config");
        assert_eq!(dates(&config.history), [1000, 50, 100]);
        assert_eq!(config.created.expect("date").unix(), 100);
    }

    #[test]
    fn configs_that_are_none_are_refused() {
        for json in ["null", "[]", "{}", r#"{"os":"linux"}"#, r#"{"os":"linux","architecture":1}"#] {
            assert!(patch(json.as_bytes(), &[], None, None, None).is_err(), "{json}");
        }
        let config = empty(&Platform::new("linux", "arm64"));
        assert_eq!((config.config.working_dir.as_str(), config.config.env.len()), ("/", 1));
        assert!(patch(&config.encode(), &[], None, None, None).is_ok());
    }
}
