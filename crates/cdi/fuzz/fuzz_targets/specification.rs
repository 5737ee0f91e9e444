//! Any text is refused or a specification that says what it must.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    for json in [false, true] {
        let Ok(spec) = kiln_cdi::parse(text, json) else { continue };
        assert!(spec.kind.contains('/') && !spec.devices.is_empty());
        assert!(spec.devices.iter().all(|device| !device.name.is_empty() && !device.edits.is_empty()));
    }
});
