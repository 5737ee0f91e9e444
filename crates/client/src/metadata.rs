//! `--metadata-file`: what the exporters answered, as JSON.

use std::{collections::BTreeMap, path::Path};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use kiln_oci::gojson;
use serde_json::Value;

use crate::{Error, fs::write_atomic};

/// Writes an object with a key for each answer. An answer that is base64 of a JSON object is that object, others are texts.
///
/// # Errors
/// If the file cannot be written.
pub fn write_metadata_file(path: &Path, response: &BTreeMap<String, String>) -> Result<(), Error> {
    write_atomic(path, &encode(response)?)
}

fn encode(response: &BTreeMap<String, String>) -> Result<Vec<u8>, Error> {
    let values: BTreeMap<_, _> = response.iter().map(|(key, text)| (key, value(text))).collect();
    gojson::to_vec_indent(&values).map_err(|error| Error::io("encoding the metadata file")(error.into()))
}

fn value(text: &str) -> Value {
    let object = BASE64.decode(text).ok().and_then(|data| serde_json::from_slice::<Value>(&data).ok());
    object.filter(|v| v.as_object().is_some_and(|o| !o.is_empty())).unwrap_or_else(|| text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_inlined_and_nothing_else() {
        let response =
            [("a", "eyJmb28iOm51bGx9"), ("b", "MTI="), ("c", "e30="), ("d", "W10="), ("e", "sha256:x")]
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .into();
        let text = String::from_utf8(encode(&response).unwrap()).unwrap();
        assert_eq!(
            text,
            "{\n  \"a\": {\n    \"foo\": null\n  },\n  \"b\": \"MTI=\",\n  \"c\": \"e30=\",\n  \"d\": \"W10=\",\n  \"e\": \"sha256:x\"\n}"
        );
    }
}
