//! Recognises compressed streams by their first bytes and inflates them in a thread of their own.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel},
    thread,
};

use crate::error::{Error, Result};

/// Size of the pieces that go from the inflating thread to the reader.
const CHUNK: usize = 256 << 10;
/// Pieces that may wait between the two.
const DEPTH: usize = 4;
/// Memory that an xz stream may ask for: the highest preset needs 65 MiB.
const XZ_MEMORY_KIB: u32 = 130 << 10;

/// What the first bytes of a stream say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// None of the others.
    Plain,
    /// RFC 1952.
    Gzip,
    /// RFC 8878, or a skippable frame of it.
    Zstd,
    /// bzip2.
    Bzip2,
    /// The .xz file format.
    Xz,
}

impl Format {
    /// Bytes that [`Format::detect`] wants to see, if there are as many.
    pub const PREFIX: usize = 8;

    /// Recognises the format.
    pub fn detect(prefix: &[u8]) -> Self {
        match prefix {
            [0x1f, 0x8b, 0x08, ..] => Format::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, _, _, _, _, ..] => Format::Zstd,
            [b'B', b'Z', b'h', ..] => Format::Bzip2,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Format::Xz,
            _ => Format::Plain,
        }
    }
}

/// A decompressed stream. Dropping it stops its thread.
pub struct Decompressed {
    format: Format,
    source: Source,
}

enum Source {
    Plain(Box<dyn BufRead + Send>),
    Thread {
        chunks: Receiver<io::Result<Vec<u8>>>,
        used: Sender<Vec<u8>>,
        chunk: Vec<u8>,
        at: usize,
        ended: bool,
    },
}

/// Starts to decompress `input`, in whatever of the known formats it is.
///
/// # Errors
///
/// [`Error::Read`] if the first bytes cannot be read or no thread started. A broken stream shows while reading.
pub fn decompress<R: Read + Send + 'static>(input: R) -> Result<Decompressed> {
    let mut input = BufReader::with_capacity(CHUNK, input);
    let mut prefix = [0; Format::PREFIX];
    let mut length = 0;
    while length < prefix.len() {
        match input.read(&mut prefix[length..]) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::Read(error)),
        }
    }
    let format = Format::detect(&prefix[..length]);
    let input = io::Cursor::new(prefix).take(length as u64).chain(input);
    let source = if format == Format::Plain {
        Source::Plain(Box::new(input))
    } else {
        let (send, chunks) = sync_channel(DEPTH);
        let (used, spare) = channel();
        thread::Builder::new()
            .name("layer-inflate".into())
            .spawn(move || {
                let mut out = Chunks { send, spare, chunk: Vec::with_capacity(CHUNK) };
                let result = inflate(format, input, &mut out).and_then(|()| out.send_chunk());
                if let Err(error) = result {
                    // A reader that is gone needs no error.
                    drop(out.send.send(Err(error)));
                }
            })
            .map_err(Error::Read)?;
        Source::Thread { chunks, used, chunk: Vec::new(), at: 0, ended: false }
    };
    Ok(Decompressed { format, source })
}

impl Decompressed {
    /// What the stream was.
    pub fn format(&self) -> Format {
        self.format
    }
}

impl BufRead for Decompressed {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        match &mut self.source {
            Source::Plain(input) => input.fill_buf(),
            Source::Thread { chunks, used, chunk, at, ended } => {
                if *at == chunk.len() && !*ended {
                    *at = 0;
                    match chunks.recv() {
                        Ok(next) => {
                            let old = std::mem::replace(chunk, next.inspect_err(|_| *ended = true)?);
                            // The thread may have ended already; then nobody needs the buffer.
                            drop(used.send(old));
                        }
                        Err(_) => {
                            *ended = true;
                            chunk.clear();
                        }
                    }
                }
                Ok(&chunk[*at..])
            }
        }
    }

    fn consume(&mut self, count: usize) {
        match &mut self.source {
            Source::Plain(input) => input.consume(count),
            Source::Thread { at, .. } => *at += count,
        }
    }
}

impl Read for Decompressed {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let count = available.len().min(target.len());
        target[..count].copy_from_slice(&available[..count]);
        self.consume(count);
        Ok(count)
    }
}

/// The thread's end of the channel: gathers pieces of [`CHUNK`] bytes.
struct Chunks {
    send: SyncSender<io::Result<Vec<u8>>>,
    spare: Receiver<Vec<u8>>,
    chunk: Vec<u8>,
}

impl Chunks {
    fn send_chunk(&mut self) -> io::Result<()> {
        if self.chunk.is_empty() {
            return Ok(());
        }
        let mut next = self.spare.try_recv().unwrap_or_default();
        next.clear();
        next.reserve(CHUNK);
        self.send
            .send(Ok(std::mem::replace(&mut self.chunk, next)))
            .map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl Write for Chunks {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let count = data.len().min(CHUNK - self.chunk.len());
        self.chunk.extend_from_slice(&data[..count]);
        if self.chunk.len() == CHUNK {
            self.send_chunk()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn inflate(format: Format, input: impl BufRead, out: &mut Chunks) -> io::Result<()> {
    match format {
        Format::Plain => copy(input, out),
        Format::Gzip => copy(flate2::bufread::MultiGzDecoder::new(input), out),
        Format::Zstd => copy(zstd::stream::read::Decoder::with_buffer(input)?, out),
        Format::Bzip2 => copy(bzip2::bufread::MultiBzDecoder::new(input), out),
        Format::Xz => copy(lzma_rust2::XzReader::new_mem_limit(input, true, XZ_MEMORY_KIB), out),
    }
}

/// Reads straight into the pieces.
fn copy(mut input: impl Read, out: &mut Chunks) -> io::Result<()> {
    let mut filled = 0;
    loop {
        out.chunk.resize(CHUNK, 0);
        match input.read(&mut out.chunk[filled..]) {
            Ok(0) => {
                out.chunk.truncate(filled);
                return Ok(());
            }
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                out.chunk.truncate(filled);
                out.send_chunk()?;
                return Err(error);
            }
        }
        if filled == CHUNK {
            out.send_chunk()?;
            filled = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// "some content " 60 000 times, as liblzma packs it.
    const XZ: &str = "\
        fd377a585a000004e6d6b4460200210116000000742fe5a3ebe6df00c25d00399bc9f2e750555b38b27e32b8f0254c26dd3e\
        33e2680637d6f73ed50e1da902548f1bd08a5dac120baf6fce4132040ca68b1da7ef173fa6b0091ecec4a4a3d20a9c82dbe7\
        0b4da33cff10b037559325ed5de8004de089087a8070b35dd66483797aae186474bcafd5900fc42553f8f591363105a5b0ee\
        6fc1704d470cd19111aaad601dbaceb127185c5986e9665258bee976ac59e4e55b0508f9c7daadfcfb522b74cd1e5b2042f9\
        dd533df82964093b80cb2a6cdfb53bf0c4bd2e528f72840000000000fb938e4ad68615a70001de01e0cd2f0074fc158bb1c4\
        67fb020000000004595a\
        ";

    fn hex(text: &str) -> Vec<u8> {
        let digit = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).expect("hex");
        (0..text.len()).step_by(2).map(digit).collect()
    }

    fn read(bytes: Vec<u8>) -> io::Result<(Format, Vec<u8>)> {
        let mut stream = decompress(io::Cursor::new(bytes)).expect("start");
        let mut data = Vec::new();
        stream.read_to_end(&mut data)?;
        Ok((stream.format(), data))
    }

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(data).expect("write");
        encoder.finish().expect("finish")
    }

    #[test]
    fn every_format_is_told_by_its_first_bytes() {
        let data = b"some content ".repeat(60_000);
        assert_eq!(read(data.clone()).expect("plain"), (Format::Plain, data.clone()));
        assert_eq!(read(gzip(&data)).expect("gzip"), (Format::Gzip, data.clone()));
        let zstd = zstd::encode_all(data.as_slice(), 1).expect("zstd");
        assert_eq!(read(zstd).expect("zstd"), (Format::Zstd, data.clone()));
        let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        encoder.write_all(&data).expect("bzip2");
        assert_eq!(read(encoder.finish().expect("bzip2")).expect("bzip2"), (Format::Bzip2, data.clone()));
        let xz = hex(XZ);
        assert_eq!(read(xz.clone()).expect("xz"), (Format::Xz, data));
        assert!(read(xz[..xz.len() - 40].to_vec()).is_err());
    }

    #[test]
    fn members_one_after_another_are_one_stream() {
        let joined = [gzip(b"one "), gzip(b""), gzip(b"two")].concat();
        assert_eq!(read(joined).expect("gzip").1, b"one two");
    }

    #[test]
    fn truncated_and_broken_streams_are_errors() {
        let data = (0..100_000u32).flat_map(u32::to_le_bytes).collect::<Vec<_>>();
        let whole = gzip(&data);
        for length in [20, whole.len() / 2, whole.len() - 4] {
            assert!(read(whole[..length].to_vec()).is_err(), "{length}");
        }
        let mut broken = whole;
        let middle = broken.len() / 2;
        broken[middle] ^= 0x55;
        assert!(read(broken).is_err());
        let zstd = zstd::encode_all(data.as_slice(), 1).expect("zstd");
        assert!(read(zstd[..zstd.len() / 2].to_vec()).is_err());
    }

    #[test]
    fn a_short_stream_is_plain() {
        assert_eq!(read(Vec::new()).expect("empty"), (Format::Plain, Vec::new()));
        assert_eq!(read(vec![0x1f]).expect("short"), (Format::Plain, vec![0x1f]));
    }

    #[test]
    fn dropping_the_reader_stops_the_thread() {
        let mut stream = decompress(io::Cursor::new(gzip(&vec![0; 50 << 20]))).expect("start");
        let mut one = [0];
        stream.read_exact(&mut one).expect("read");
    }
}
