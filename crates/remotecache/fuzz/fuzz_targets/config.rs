//! Any bytes are refused as a cache config, or are one whose graph can be asked anything, and which, put in order, reads back
//! the same.
#![no_main]

use std::collections::HashMap;

use kiln_oci::{Descriptor, media_type};
use kiln_remotecache::{CacheConfig, CacheGraph};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(mut config) = CacheConfig::decode(data) else { return };
    let describe = |blob: &kiln_oci::Digest| {
        (blob.clone(), Descriptor::new(media_type::OCI_LAYER_GZIP, blob.clone(), 1))
    };
    let blobs: HashMap<_, _> = config.layers.iter().map(|layer| describe(&layer.blob)).collect();
    let mut graph = CacheGraph::default();
    if graph.add(&config, &blobs).is_err() {
        return;
    }
    for key in graph.keys() {
        assert!(graph.exists(&key));
        assert!(graph.backlinks(&key).iter().all(|way| graph.exists(&way.from)));
        for record in graph.records(&key) {
            let layers = graph.layers_of(&record.id).expect("a result has layers").len();
            assert!(graph.lower(&key, &record.id).iter().all(|part| part.depth <= layers));
            assert!(graph.keys_of(&record.id).contains(&key));
        }
    }
    config.sort();
    let encoded = config.encode().expect("our own config");
    assert_eq!(CacheConfig::decode(&encoded).expect("our own encoding"), config);
});
