//! Reads entries one by one from any byte stream, with bounded memory.

use std::{
    collections::BTreeMap,
    io::{self, BufRead, Read},
};

use super::{BLOCK, Header, Kind, MAX_EXTENDED, Timestamp, display_path, padding};
use crate::error::{Error, Result};

/// Reads a tar archive from `R`. After [`TarReader::next_entry`] the entry's content is read through [`BufRead`] until
/// it ends; what is left unread is skipped by the next call.
pub struct TarReader<R> {
    input: R,
    /// Content bytes of the current entry that were not read yet.
    remaining: u64,
    /// Zero bytes after that content.
    padding: u64,
    ended: bool,
}

/// What entries before a header say of it.
#[derive(Default)]
struct Extensions {
    records: BTreeMap<Vec<u8>, Vec<u8>>,
    gnu_name: Option<Vec<u8>>,
    gnu_link: Option<Vec<u8>>,
}

impl<R: BufRead> TarReader<R> {
    /// Reads from the start of an archive.
    pub fn new(input: R) -> Self {
        TarReader { input, remaining: 0, padding: 0, ended: false }
    }

    /// The next entry, or `None` after the last one. An archive that ends at the boundary of an entry without the
    /// two closing blocks is accepted, as common writers leave them out.
    ///
    /// # Errors
    ///
    /// [`Error::Archive`] for broken or truncated archives, [`Error::Limit`] for extended headers beyond
    /// [`MAX_EXTENDED`], [`Error::UnsupportedEntry`] for sparse files and unknown types.
    pub fn next_entry(&mut self) -> Result<Option<Header>> {
        let mut extensions = Extensions::default();
        let mut pending = false;
        loop {
            self.skip_rest()?;
            let Some(block) = self.block()? else {
                if pending {
                    return Err(Error::Archive("an extended header has no entry after it".into()));
                }
                return Ok(None);
            };
            let size = numeric(&block[124..136], "size")?;
            let size =
                u64::try_from(size).map_err(|_| Error::Archive("an entry has a negative size".into()))?;
            match block[156] {
                b'x' => extensions.records.append(&mut parse_records(&self.extended(size)?)?),
                // Global records are not applied to entries: no reader of layers does.
                b'g' => {
                    self.extended(size)?;
                    continue;
                }
                b'L' => extensions.gnu_name = Some(until_nul(self.extended(size)?)),
                b'K' => extensions.gnu_link = Some(until_nul(self.extended(size)?)),
                _ => return self.entry(&block, size, extensions).map(Some),
            }
            pending = true;
        }
    }

    /// Reads to the end of the stream, past what follows the archive, and gives the input back.
    ///
    /// # Errors
    ///
    /// [`Error::Read`] if the stream fails.
    pub fn drain(mut self) -> Result<R> {
        loop {
            let available = self.input.fill_buf().map_err(Error::Read)?.len();
            if available == 0 {
                return Ok(self.input);
            }
            self.input.consume(available);
        }
    }

    fn entry(&mut self, block: &[u8; BLOCK], size: u64, extensions: Extensions) -> Result<Header> {
        let mut header = plain_header(block)?;
        header.size = size;
        if let Some(name) = extensions.gnu_name {
            header.path = name;
        }
        if let Some(link) = extensions.gnu_link {
            header.link = link;
        }
        for (key, value) in extensions.records {
            apply_record(&mut header, &key, value)?;
        }
        if header.path.contains(&0) || header.link.contains(&0) {
            return Err(Error::Archive(format!("the name {} holds a NUL byte", display_path(&header.path))));
        }
        header.kind = match block[156] {
            // Old writers mark folders by the final slash alone.
            b'0' | 0 | b'7' if header.path.ends_with(b"/") => Kind::Directory,
            b'0' | 0 | b'7' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' => Kind::CharDevice,
            b'4' => Kind::BlockDevice,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            b'S' => return Err(unsupported(&header.path, "a sparse file in a tar archive")),
            _ => return Err(unsupported(&header.path, "this type of tar entry")),
        };
        if header.kind != Kind::File {
            header.size = 0;
        }
        self.remaining = header.size;
        self.padding = padding(header.size) as u64;
        Ok(header)
    }

    /// The content of an entry that describes the next one.
    fn extended(&mut self, size: u64) -> Result<Vec<u8>> {
        if size > MAX_EXTENDED {
            return Err(Error::Limit { what: "an extended tar header".into(), limit: MAX_EXTENDED });
        }
        let mut data = vec![0; size as usize];
        self.read_exactly(&mut data)?;
        let mut rest = [0; BLOCK];
        self.read_exactly(&mut rest[..padding(size)])?;
        Ok(data)
    }

    /// The next header block; `None` at the end of the archive.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>> {
        if self.ended {
            return Ok(None);
        }
        let mut block = [0; BLOCK];
        if self.input.fill_buf().map_err(Error::Read)?.is_empty() {
            self.ended = true;
            return Ok(None);
        }
        self.read_exactly(&mut block)?;
        if block.iter().all(|&b| b == 0) {
            self.ended = true;
            return Ok(None);
        }
        check_sum(&block)?;
        Ok(Some(block))
    }

    fn skip_rest(&mut self) -> Result<()> {
        let mut left = std::mem::take(&mut self.remaining) + std::mem::take(&mut self.padding);
        while left > 0 {
            let available = self.input.fill_buf().map_err(Error::Read)?.len();
            if available == 0 {
                return Err(truncated());
            }
            let step = available.min(usize::try_from(left).unwrap_or(usize::MAX));
            self.input.consume(step);
            left -= step as u64;
        }
        Ok(())
    }

    fn read_exactly(&mut self, data: &mut [u8]) -> Result<()> {
        self.input.read_exact(data).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => truncated(),
            _ => Error::Read(error),
        })
    }
}

impl<R: BufRead> Read for TarReader<R> {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let count = available.len().min(target.len());
        target[..count].copy_from_slice(&available[..count]);
        self.consume(count);
        Ok(count)
    }
}

impl<R: BufRead> BufRead for TarReader<R> {
    /// Content of the current entry; empty at its end. A stream that ends before is an `UnexpectedEof`.
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.remaining == 0 {
            return Ok(&[]);
        }
        let available = self.input.fill_buf()?;
        if available.is_empty() {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, truncated()));
        }
        let count = available.len().min(usize::try_from(self.remaining).unwrap_or(usize::MAX));
        Ok(&available[..count])
    }

    fn consume(&mut self, count: usize) {
        self.remaining -= count as u64;
        self.input.consume(count);
    }
}

fn truncated() -> Error {
    Error::Archive("the stream ends in the middle of an entry (unexpected EOF)".into())
}

fn unsupported(path: &[u8], feature: &'static str) -> Error {
    Error::UnsupportedEntry { path: display_path(path), feature }
}

/// Old writers summed signed bytes; both sums are accepted.
fn check_sum(block: &[u8; BLOCK]) -> Result<()> {
    let said = octal(&block[148..156], "checksum")?;
    let bytes = || block.iter().enumerate().map(|(at, &b)| if (148..156).contains(&at) { b' ' } else { b });
    let unsigned: i64 = bytes().map(i64::from).sum();
    let signed: i64 = bytes().map(|b| i64::from(b as i8)).sum();
    if said != unsigned && said != signed {
        return Err(Error::Archive("a header's checksum is wrong".into()));
    }
    Ok(())
}

/// The fields of the block alone.
fn plain_header(block: &[u8; BLOCK]) -> Result<Header> {
    let mut path = until_nul(block[..100].to_vec());
    let posix = &block[257..263] == b"ustar\0";
    let gnu = &block[257..265] == b"ustar  \0";
    if posix && block[345] != 0 {
        let mut prefix = until_nul(block[345..500].to_vec());
        prefix.push(b'/');
        prefix.append(&mut path);
        path = prefix;
    }
    let mut header = Header::new(Kind::File, path);
    header.mode = (numeric(&block[100..108], "mode")? & 0o7777) as u32;
    header.uid = id(&block[108..116], "uid")?;
    header.gid = id(&block[116..124], "gid")?;
    header.mtime.seconds = numeric(&block[136..148], "mtime")?;
    header.link = until_nul(block[157..257].to_vec());
    if (posix || gnu) && matches!(block[156], b'3' | b'4') {
        let number = |field, name| {
            u32::try_from(numeric(field, name)?)
                .map_err(|_| Error::Archive(format!("a {name} is out of range")))
        };
        header.device =
            (number(&block[329..337], "device major")?, number(&block[337..345], "device minor")?);
    }
    Ok(header)
}

fn id(field: &[u8], name: &str) -> Result<u64> {
    u64::try_from(numeric(field, name)?).map_err(|_| Error::Archive(format!("a {name} is negative")))
}

/// Octal digits, or a big-endian two's complement number when the first bit is set.
fn numeric(field: &[u8], name: &str) -> Result<i64> {
    let Some(&first) = field.first().filter(|&&b| b & 0x80 != 0) else {
        return octal(field, name);
    };
    let negative = first & 0x40 != 0;
    let mut value: i128 = if negative { -1 } else { 0 };
    for (at, &byte) in field.iter().enumerate() {
        let byte = if at == 0 && !negative { byte & 0x7f } else { byte };
        value = value << 8 | i128::from(byte);
    }
    i64::try_from(value).map_err(|_| Error::Archive(format!("a {name} is out of range")))
}

fn octal(field: &[u8], name: &str) -> Result<i64> {
    let blank = |b: &u8| *b == 0 || *b == b' ';
    let start = field.iter().position(|b| !blank(b)).unwrap_or(field.len());
    let digits = &field[start..];
    let end = digits.iter().position(blank).unwrap_or(digits.len());
    digits[..end]
        .iter()
        .try_fold(0i64, |value, &digit| match digit {
            b'0'..=b'7' => value.checked_mul(8).map(|v| v + i64::from(digit - b'0')),
            _ => None,
        })
        .ok_or_else(|| Error::Archive(format!("a {name} is not a number")))
}

fn until_nul(mut name: Vec<u8>) -> Vec<u8> {
    let end = name.iter().position(|&b| b == 0).unwrap_or(name.len());
    name.truncate(end);
    name
}

/// Splits the content of a PAX header into its records; the last of a key wins.
fn parse_records(mut data: &[u8]) -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let broken = || Error::Archive("a PAX header is malformed".into());
    let mut records = BTreeMap::new();
    while !data.is_empty() {
        let space = data.iter().take(8).position(|&b| b == b' ').ok_or_else(broken)?;
        let length: usize =
            std::str::from_utf8(&data[..space]).ok().and_then(|s| s.parse().ok()).ok_or_else(broken)?;
        if length < space + 4 || length > data.len() || data[length - 1] != b'\n' {
            return Err(broken());
        }
        let record = &data[space + 1..length - 1];
        let equals = record.iter().position(|&b| b == b'=').filter(|&at| at > 0).ok_or_else(broken)?;
        let (key, value) = (&record[..equals], &record[equals + 1..]);
        if key.contains(&0) {
            return Err(broken());
        }
        records.insert(key.to_vec(), value.to_vec());
        data = &data[length..];
    }
    Ok(records)
}

/// Moves one record into the header. An empty value of a basic key means "as the block says".
fn apply_record(header: &mut Header, key: &[u8], value: Vec<u8>) -> Result<()> {
    let basic = matches!(key, b"path" | b"linkpath" | b"uid" | b"gid" | b"size" | b"mtime" | b"atime");
    if basic && value.is_empty() {
        return Ok(());
    }
    match key {
        b"path" => header.path = value,
        b"linkpath" => header.link = value,
        b"uid" => header.uid = decimal(&value, "uid")?,
        b"gid" => header.gid = decimal(&value, "gid")?,
        b"size" => header.size = decimal(&value, "size")?,
        b"mtime" => header.mtime = time(&value)?,
        b"atime" => header.atime = Some(time(&value)?),
        b"ctime" | b"uname" | b"gname" | b"comment" | b"charset" | b"hdrcharset" => {}
        _ if key.starts_with(b"GNU.sparse.") => {
            return Err(unsupported(&header.path, "a sparse file in a tar archive"));
        }
        _ => {
            header.records.insert(key.to_vec(), value);
        }
    }
    Ok(())
}

fn decimal(value: &[u8], name: &str) -> Result<u64> {
    std::str::from_utf8(value)
        .ok()
        .and_then(|text| text.parse::<u64>().ok())
        .filter(|&number| number <= i64::MAX as u64)
        .ok_or_else(|| Error::Archive(format!("the PAX record of a {name} is not a number")))
}

fn time(value: &[u8]) -> Result<Timestamp> {
    let broken = || Error::Archive("the PAX record of a time is not a number".into());
    let text = std::str::from_utf8(value).map_err(|_| broken())?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().map_err(|_| broken())?;
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return Err(broken());
    }
    let digits = fraction.bytes().chain(std::iter::repeat(b'0')).take(9);
    let nanoseconds = digits.fold(0u32, |value, digit| value * 10 + u32::from(digit - b'0'));
    if whole.starts_with('-') && nanoseconds > 0 {
        let seconds = seconds.checked_sub(1).ok_or_else(broken)?;
        return Ok(Timestamp { seconds, nanoseconds: 1_000_000_000 - nanoseconds });
    }
    Ok(Timestamp { seconds, nanoseconds })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::super::TarWriter;
    use super::*;

    fn entries(bytes: &[u8]) -> Result<Vec<(Header, Vec<u8>)>> {
        let mut tar = TarReader::new(bytes);
        let mut entries = Vec::new();
        while let Some(header) = tar.next_entry()? {
            let mut content = Vec::new();
            tar.read_to_end(&mut content).map_err(Error::Read)?;
            entries.push((header, content));
        }
        Ok(entries)
    }

    fn sample() -> (Header, Vec<u8>) {
        let mut header = Header::new(Kind::File, format!("dir/{}", "n".repeat(300)).into_bytes());
        (header.mode, header.uid, header.gid, header.size) = (0o4755, 3_000_000, 5, 700);
        header.mtime = Timestamp { seconds: -5, nanoseconds: 250_000_000 };
        header.set_xattr(b"security.capability", b"\x01=\0\n".to_vec());
        let mut tar = TarWriter::new(Vec::new());
        tar.header(&header).expect("header");
        tar.write_all(&[7; 700]).expect("content");
        let mut link = Header::new(Kind::HardLink, "b");
        link.link = header.path.clone();
        tar.header(&link).expect("header");
        (header, tar.finish().expect("finish"))
    }

    #[test]
    fn what_the_writer_wrote_comes_back() {
        let (header, bytes) = sample();
        let read = entries(&bytes).expect("entries");
        assert_eq!(read[0], (header.clone(), vec![7; 700]));
        assert_eq!((read[1].0.kind, &read[1].0.link), (Kind::HardLink, &header.path));
        assert_eq!(read.len(), 2);
    }

    #[test]
    fn every_truncation_is_an_error_or_a_whole_number_of_entries() {
        let (_, bytes) = sample();
        for length in 1..bytes.len() - 1024 {
            match entries(&bytes[..length]) {
                Ok(read) => assert!(read.len() < 2 && length % 512 == 0, "{length}"),
                Err(error) => assert!(
                    error.to_string().contains("EOF") || error.to_string().contains("no entry"),
                    "{error}"
                ),
            }
        }
    }

    #[test]
    fn any_flipped_byte_never_panics() {
        let (_, bytes) = sample();
        for at in 0..bytes.len().min(2048) {
            for value in [0, 0x80, 0xff, b'9', b'\n'] {
                let mut bytes = bytes.clone();
                bytes[at] = value;
                drop(entries(&bytes));
            }
        }
    }

    #[test]
    fn base_256_numbers_and_gnu_names() {
        let block = |flag: u8, size: u64, edit: &dyn Fn(&mut [u8; BLOCK])| {
            let mut bytes = Vec::new();
            let mut header = Header::new(Kind::File, "short");
            header.size = size;
            TarWriter::new(&mut bytes).header(&header).expect("header");
            let mut block: [u8; BLOCK] = bytes[..BLOCK].try_into().expect("a block");
            block[156] = flag;
            edit(&mut block);
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|&b| u32::from(b)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            block
        };
        let mut bytes = block(b'L', 6, &|_| {}).to_vec();
        bytes.extend_from_slice(b"a/long");
        bytes.resize(1024, 0);
        bytes.extend_from_slice(&block(b'0', 0, &|b| {
            b[108..116].copy_from_slice(&[0x80, 0, 0, 0, 0, 0x2d, 0xc6, 0xc0]);
            b[136..148].fill(0xff);
        }));
        let read = entries(&bytes).expect("entries");
        assert_eq!(
            (&read[0].0.path[..], read[0].0.uid, read[0].0.mtime.seconds),
            (&b"a/long"[..], 3_000_000, -1)
        );
        assert!(matches!(entries(&block(b'S', 0, &|_| {})), Err(Error::UnsupportedEntry { .. })));
        assert!(matches!(entries(&block(b'x', 1 << 30, &|_| {})), Err(Error::Limit { .. })));
        assert!(matches!(entries(b"not a tar at all"), Err(Error::Archive(_))));
    }

    #[test]
    fn malformed_records_are_refused() {
        for bad in ["6 a=b", "99 a=b\n", "5 =b\n", "4 ab\n", "x a=b\n", "7 a\0=b\n\n"] {
            assert!(parse_records(bad.as_bytes()).is_err(), "{bad:?}");
        }
        assert_eq!(parse_records(b"6 a=b\n6 a=c\n").expect("records")[&b"a"[..]], b"c");
    }
}
