//! One pass from a tar stream to a blob: digest of the stream, compression on all cores, digest of the blob.

use std::{
    collections::VecDeque,
    io::{self, Read, Write},
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, Sender, SyncSender, channel, sync_channel},
    },
    thread,
};

use kiln_oci::Digest;
use sha2::{Digest as _, Sha256};
use zstd::zstd_safe::CParameter;

use super::{Compression, Settings};

/// Bytes of tar stream per gzip member.
const GZIP_BLOCK: usize = 1 << 20;
/// Bytes of tar stream per zstd frame: frames gain from a larger window.
const ZSTD_BLOCK: usize = 8 << 20;
/// Bytes gathered before an uncompressed layer is written on.
const PLAIN_BLOCK: usize = 256 << 10;
/// More threads than this are of no use beside the disk, and each holds two blocks.
const MAX_THREADS: usize = 8;

/// As small as zlib's default makes it, in less than half the time.
const DEFAULT_GZIP_LEVEL: i32 = 4;
/// One hash table, searched once, over all of a frame. It makes layers as small as level 3 does, which has two tables and looks back
/// a quarter as far, in three quarters of the time.
const DEFAULT_ZSTD: [CParameter; 2] =
    [CParameter::CompressionLevel(2), CParameter::WindowLog(ZSTD_BLOCK.ilog2())];

/// Names and sizes of a layer that has been written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Digest of the blob, as it lies in a content store.
    pub digest: Digest,
    /// Size of the blob in bytes.
    pub size: u64,
    /// Digest of the tar stream inside.
    pub diff_id: Digest,
    /// Length of the tar stream in bytes.
    pub diff_size: u64,
}

/// Packs a tar stream into `W`. Small layers are packed in the caller's thread; from the first full block on, threads
/// work ahead while the caller goes on writing, and memory stays bounded to a few blocks.
pub struct LayerWriter<W> {
    sink: Sink<W>,
    stream: Option<Sha256>,
    stream_size: u64,
    settings: Settings,
    block: Vec<u8>,
    filled: usize,
    workers: Option<Workers>,
    /// How many of them there may be.
    threads: usize,
}

impl<W: Write> LayerWriter<W> {
    /// Starts a layer.
    pub fn new(sink: W, settings: Settings) -> Self {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        Self::with_threads(sink, settings, cores.min(MAX_THREADS))
    }

    /// The layer's bytes are the same for any number of threads.
    fn with_threads(sink: W, settings: Settings, threads: usize) -> Self {
        let block = match settings.compression {
            Compression::Uncompressed => PLAIN_BLOCK,
            Compression::Gzip => GZIP_BLOCK,
            Compression::Zstd => ZSTD_BLOCK,
        };
        LayerWriter {
            sink: Sink { out: sink, hash: Sha256::new(), size: 0 },
            stream: (settings.compression != Compression::Uncompressed).then(Sha256::new),
            stream_size: 0,
            settings,
            block: vec![0; block],
            filled: 0,
            workers: None,
            threads,
        }
    }

    /// Reads from `source` straight into the block, at most `limit` bytes. Returns how many were read; 0 at the end of
    /// `source`.
    ///
    /// # Errors
    ///
    /// What the source or the sink says.
    pub fn fill_from(&mut self, source: &mut impl Read, limit: u64) -> io::Result<usize> {
        self.make_room()?;
        let room = self.block.len() - self.filled;
        let end = self.filled + room.min(usize::try_from(limit).unwrap_or(usize::MAX));
        let count = source.read(&mut self.block[self.filled..end])?;
        self.took(count);
        Ok(count)
    }

    /// Packs what is left and gives the sink back with the layer's names.
    ///
    /// # Errors
    ///
    /// What the sink says.
    pub fn finish(mut self) -> io::Result<(W, Written)> {
        // An empty stream is still one (empty) member, so that the blob is a valid one.
        if self.filled > 0 || self.sink.size == 0 && self.workers.is_none() {
            self.pack_block()?;
        }
        if let Some(mut workers) = self.workers.take() {
            while workers.write_next(&mut self.sink)? {}
        }
        self.sink.out.flush()?;
        let digest = digest_of(self.sink.hash);
        let written = Written {
            diff_id: self.stream.map_or_else(|| digest.clone(), digest_of),
            diff_size: self.stream_size,
            size: self.sink.size,
            digest,
        };
        Ok((self.sink.out, written))
    }

    fn took(&mut self, count: usize) {
        if let Some(hash) = &mut self.stream {
            hash.update(&self.block[self.filled..self.filled + count]);
        }
        self.filled += count;
        self.stream_size += count as u64;
    }

    fn make_room(&mut self) -> io::Result<()> {
        if self.filled < self.block.len() {
            return Ok(());
        }
        if self.settings.compression == Compression::Uncompressed {
            return self.pack_block();
        }
        let length = self.block.len();
        let workers = self.workers.get_or_insert_with(|| Workers::new(self.settings, self.threads));
        let full = std::mem::take(&mut self.block);
        self.block = workers.submit(full, &mut self.sink)?.unwrap_or_else(|| vec![0; length]);
        self.filled = 0;
        Ok(())
    }

    /// Packs the block in this thread, or as the last job of the others.
    fn pack_block(&mut self) -> io::Result<()> {
        let filled = std::mem::take(&mut self.filled);
        if let Some(workers) = &mut self.workers {
            self.block.truncate(filled);
            workers.submit(std::mem::take(&mut self.block), &mut self.sink)?;
            return Ok(());
        }
        match Codec::new(self.settings)? {
            None => self.sink.write(&self.block[..filled]),
            Some(mut codec) => {
                let mut packed = Vec::new();
                let length = codec.pack(&self.block[..filled], &mut packed)?;
                self.sink.write(&packed[..length])
            }
        }
    }
}

impl<W: Write> Write for LayerWriter<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.make_room()?;
        let count = data.len().min(self.block.len() - self.filled);
        self.block[self.filled..self.filled + count].copy_from_slice(&data[..count]);
        self.took(count);
        Ok(count)
    }

    /// Does nothing: where blocks are cut must not depend on who flushes.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn digest_of(hash: Sha256) -> Digest {
    Digest::from_sha256(hash.finalize().into())
}

/// The writer of the blob, with its digest.
struct Sink<W> {
    out: W,
    hash: Sha256,
    size: u64,
}

impl<W: Write> Sink<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<()> {
        self.hash.update(data);
        self.size += data.len() as u64;
        self.out.write_all(data)
    }
}

/// Packs single blocks.
enum Codec {
    Gzip(libdeflater::Compressor),
    Zstd(zstd::bulk::Compressor<'static>),
}

impl Codec {
    fn new(settings: Settings) -> io::Result<Option<Self>> {
        Ok(match settings.compression {
            Compression::Uncompressed => None,
            Compression::Gzip => {
                let level = libdeflater::CompressionLvl::new(settings.level.unwrap_or(DEFAULT_GZIP_LEVEL))
                    .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "invalid gzip level"))?;
                Some(Codec::Gzip(libdeflater::Compressor::new(level)))
            }
            Compression::Zstd => {
                // Without checksums of its own: whoever reads a layer knows the digests of both of its forms.
                let mut codec = zstd::bulk::Compressor::new(settings.level.unwrap_or_default())?;
                if settings.level.is_none() {
                    DEFAULT_ZSTD.into_iter().try_for_each(|parameter| codec.set_parameter(parameter))?;
                }
                Some(Codec::Zstd(codec))
            }
        })
    }

    /// Writes the packed block to the beginning of `packed`, which is made larger if need be, and returns its length.
    fn pack(&mut self, block: &[u8], packed: &mut Vec<u8>) -> io::Result<usize> {
        let bound = match self {
            Codec::Gzip(codec) => codec.gzip_compress_bound(block.len()),
            Codec::Zstd(_) => zstd::zstd_safe::compress_bound(block.len()),
        };
        if packed.len() < bound {
            packed.resize(bound, 0);
        }
        match self {
            Codec::Gzip(codec) => codec.gzip_compress(block, packed).map_err(io::Error::other),
            Codec::Zstd(codec) => codec.compress_to_buffer(block, packed.as_mut_slice()),
        }
    }
}

/// A block on its way to a thread.
struct Job {
    block: Vec<u8>,
    packed: Vec<u8>,
    reply: SyncSender<io::Result<Packed>>,
}

/// A block on its way back, with its packed form.
struct Packed {
    block: Vec<u8>,
    packed: Vec<u8>,
    /// Bytes of `packed` that are meant.
    length: usize,
}

/// Threads that pack blocks of one layer; they end when this is dropped.
struct Workers {
    settings: Settings,
    jobs: Sender<Job>,
    queue: Arc<Mutex<Receiver<Job>>>,
    /// One reply for each block, in the order of the stream.
    replies: VecDeque<Receiver<io::Result<Packed>>>,
    spare: Vec<Vec<u8>>,
    threads: usize,
    limit: usize,
}

impl Workers {
    fn new(settings: Settings, limit: usize) -> Self {
        let (jobs, queue) = channel();
        let queue = Arc::new(Mutex::new(queue));
        Workers { settings, jobs, queue, replies: VecDeque::new(), spare: Vec::new(), threads: 0, limit }
    }

    /// Hands a block over, after writing results while too many are under way. Gives a used block back if there is one.
    fn submit<W: Write>(&mut self, block: Vec<u8>, sink: &mut Sink<W>) -> io::Result<Option<Vec<u8>>> {
        let mut free = None;
        while self.replies.len() > self.limit {
            free = self.take_next(sink)?;
        }
        if self.threads < self.limit {
            self.spawn()?;
        }
        let (reply, result) = sync_channel(1);
        let packed = self.spare.pop().unwrap_or_default();
        self.jobs.send(Job { block, packed, reply }).map_err(|_| gone())?;
        self.replies.push_back(result);
        Ok(free)
    }

    /// Waits for the oldest block and writes it. False when there is none.
    fn write_next<W: Write>(&mut self, sink: &mut Sink<W>) -> io::Result<bool> {
        Ok(self.take_next(sink)?.is_some())
    }

    fn take_next<W: Write>(&mut self, sink: &mut Sink<W>) -> io::Result<Option<Vec<u8>>> {
        let Some(reply) = self.replies.pop_front() else { return Ok(None) };
        let done = reply.recv().map_err(|_| gone())??;
        sink.write(&done.packed[..done.length])?;
        self.spare.push(done.packed);
        Ok(Some(done.block))
    }

    fn spawn(&mut self) -> io::Result<()> {
        let Some(mut codec) = Codec::new(self.settings)? else { return Ok(()) };
        let queue = Arc::clone(&self.queue);
        thread::Builder::new().name("layer-pack".into()).spawn(move || {
            loop {
                let Ok(job) = queue.lock().map_err(|_| ()).and_then(|queue| queue.recv().map_err(|_| ()))
                else {
                    return;
                };
                let Job { block, mut packed, reply } = job;
                let result = codec.pack(&block, &mut packed).map(|length| Packed { block, packed, length });
                if reply.send(result).is_err() {
                    return;
                }
            }
        })?;
        self.threads += 1;
        Ok(())
    }
}

fn gone() -> io::Error {
    io::Error::other("a compression thread ended early")
}

#[cfg(test)]
mod tests {
    use super::super::decompress;
    use super::*;

    /// Bytes that compress somewhat.
    fn stream(length: usize) -> Vec<u8> {
        let mut state = 1u32;
        (0..length)
            .map(|at| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                if at % 3 == 0 { (state >> 24) as u8 } else { b'a' }
            })
            .collect()
    }

    fn pack(data: &[u8], settings: impl Into<Settings>, step: usize) -> (Vec<u8>, Written) {
        let mut writer = LayerWriter::new(Vec::new(), settings.into());
        for chunk in data.chunks(step) {
            writer.write_all(chunk).expect("write");
        }
        writer.finish().expect("finish")
    }

    #[test]
    fn both_digests_are_right_and_the_stream_comes_back() {
        for length in [0, 1, GZIP_BLOCK, GZIP_BLOCK * 5 + 77, ZSTD_BLOCK + 1] {
            let data = stream(length);
            for compression in [Compression::Uncompressed, Compression::Gzip, Compression::Zstd] {
                let (blob, written) = pack(&data, compression, 100_000);
                assert_eq!(written.digest, Digest::sha256(&blob));
                assert_eq!(written.diff_id, Digest::sha256(&data));
                assert_eq!((written.size, written.diff_size), (blob.len() as u64, length as u64));
                let mut back = Vec::new();
                decompress(io::Cursor::new(blob)).expect("detect").read_to_end(&mut back).expect("read");
                assert!(back == data, "{compression} {length}");
            }
        }
    }

    #[test]
    fn bytes_do_not_depend_on_how_the_stream_was_written() {
        let data = stream(GZIP_BLOCK * 3 + 5);
        for compression in [Compression::Gzip, Compression::Zstd] {
            let (first, _) = pack(&data, compression, 1000);
            let (second, _) = pack(&data, compression, usize::MAX);
            let mut writer = LayerWriter::new(Vec::new(), compression.into());
            let mut source = data.as_slice();
            while writer.fill_from(&mut source, 70_000).expect("fill") > 0 {}
            let (third, _) = writer.finish().expect("finish");
            assert!(first == second && second == third);
        }
    }

    #[test]
    fn bytes_do_not_depend_on_the_number_of_threads() {
        let data = stream(ZSTD_BLOCK * 3 + 5);
        for compression in [Compression::Gzip, Compression::Zstd] {
            let packed = [1, 2, MAX_THREADS].map(|threads| {
                let mut writer = LayerWriter::with_threads(Vec::new(), compression.into(), threads);
                writer.write_all(&data).expect("write");
                writer.finish().expect("finish")
            });
            assert!(packed[0] == packed[1] && packed[1] == packed[2], "{compression}");
        }
    }

    #[test]
    fn levels_change_the_size() {
        let data = stream(300_000);
        let size =
            |level| pack(&data, Settings { compression: Compression::Gzip, level: Some(level) }, 4096).1.size;
        assert!(size(0) > size(1) && size(1) >= size(9));
    }

    #[test]
    fn a_failing_sink_is_an_error() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut writer = LayerWriter::new(Full, Compression::Gzip.into());
        let failed = writer.write_all(&stream(GZIP_BLOCK * 20)).is_err() || writer.finish().is_err();
        assert!(failed);
    }
}
