//! Packets that go out together.
//!
//! Whoever takes packets from the channel wakes for the first of them and puts all that are there into one write. Small
//! ones that come apart cost a write and a wake-up each, at both ends of every connection on the way.

use kiln_proto::fsutil::Packet;

use crate::error::Result;

/// Most packets that are held back.
const PACKETS: usize = 64;
/// Most bytes of content that are held back.
const BYTES: usize = 64 * 1024;

/// Collects packets until there are enough of them, or [`Burst::flush`] is called. What is in it when it is dropped is
/// not sent.
pub(super) struct Burst<F> {
    put: F,
    packets: Vec<Packet>,
    bytes: usize,
}

impl<F: FnMut(Packet) -> Result<()>> Burst<F> {
    /// `put` sends one packet.
    pub(super) fn new(put: F) -> Self {
        Self { put, packets: Vec::new(), bytes: 0 }
    }

    pub(super) fn push(&mut self, packet: Packet) -> Result<()> {
        self.bytes += packet.data.len();
        self.packets.push(packet);
        if self.packets.len() >= PACKETS || self.bytes >= BYTES { self.flush() } else { Ok(()) }
    }

    pub(super) fn flush(&mut self) -> Result<()> {
        self.bytes = 0;
        self.packets.drain(..).try_for_each(&mut self.put)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn many_or_large_packets_go_out_and_few_small_ones_wait() {
        let mut sent = Vec::new();
        let mut burst = Burst::new(|packet: Packet| {
            sent.push(packet.id);
            Ok(())
        });
        let small = |id| Packet { id, ..Packet::default() };
        (0..65).try_for_each(|id| burst.push(small(id))).unwrap();
        burst.push(Packet { id: 65, data: Bytes::from(vec![0; BYTES]), ..Packet::default() }).unwrap();
        burst.push(small(66)).unwrap();
        drop(burst);
        assert_eq!(sent, Vec::from_iter(0..66));
    }
}
