//! A sender that says anything at all: the transfer ends, nothing panics, nothing outside the tree is touched.
//!
//! The input is a sequence of packets, each a length byte and its protobuf encoding.
#![no_main]

use futures::stream;
use kiln_fstree::Root;
use kiln_fstree::diffcopy::{ReceiveOptions, receive};
use kiln_proto::fsutil::Packet;
use libfuzzer_sys::fuzz_target;
use prost::Message as _;

fuzz_target!(|data: &[u8]| {
    let mut packets = Vec::new();
    let mut rest = data;
    while let Some((&len, after)) = rest.split_first() {
        let (packet, after) = after.split_at(after.len().min(len.into()));
        rest = after;
        if let Ok(packet) = Packet::decode(packet) {
            packets.push(Ok::<_, std::convert::Infallible>(packet));
        }
    }
    let tmp = tempfile::tempdir().expect("temporary folder");
    std::fs::create_dir(tmp.path().join("root")).expect("mkdir");
    std::fs::write(tmp.path().join("secret"), "outside").expect("write");
    std::os::unix::fs::symlink("..", tmp.path().join("root/up")).expect("symlink");
    let root = Root::open(tmp.path().join("root")).expect("open");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("runtime");
    runtime.block_on(async {
        let (outgoing, mut asked) = tokio::sync::mpsc::channel(16);
        let options = ReceiveOptions { hash: true, ..ReceiveOptions::default() };
        let receiving = receive(root, stream::iter(packets), outgoing, options);
        let listening = async { while asked.recv().await.is_some() {} };
        let (result, ()) = tokio::join!(receiving, listening);
        result.ok();
    });
    assert_eq!(std::fs::read(tmp.path().join("secret")).expect("still there"), b"outside");
    assert_eq!(std::fs::read_dir(tmp.path()).expect("readdir").count(), 2);
});
