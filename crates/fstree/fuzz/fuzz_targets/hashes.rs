//! Any bytes are refused as a hash cache, or are one that encodes to what reads back the same.
#![no_main]

use kiln_fstree::contenthash::HashCache;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(mut cache) = HashCache::decode(data) {
        let encoded = cache.encode();
        let mut again = HashCache::decode(&encoded).expect("our own encoding");
        assert_eq!(again.encode(), encoded);
    }
});
