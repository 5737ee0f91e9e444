//! Writes entries with the bytes that the reference's layers have: plain ustar where everything fits, else one PAX header.

use std::io::{self, Write};

use super::{BLOCK, Header, Timestamp, padding};

/// Longest name in the name field, and longest prefix in front of it.
const NAME: usize = 100;
const PREFIX: usize = 155;

/// Writes a tar archive to `W`. Content follows its header by [`Write`]; padding is added as needed.
pub struct TarWriter<W> {
    out: W,
    /// Content bytes that the current entry still expects.
    remaining: u64,
    /// Zero bytes that follow that content.
    padding: usize,
}

impl<W: Write> TarWriter<W> {
    /// Starts an archive.
    pub fn new(out: W) -> Self {
        TarWriter { out, remaining: 0, padding: 0 }
    }

    /// The writer underneath, for content that is produced in place: whoever writes there must write whole entries.
    pub(crate) fn inner(&mut self) -> &mut W {
        &mut self.out
    }

    /// Begins an entry. Exactly `header.size` bytes of content must follow.
    ///
    /// # Errors
    ///
    /// `InvalidInput` when the entry before lacks content, or a name holds a NUL byte; otherwise what the writer says.
    pub fn header(&mut self, header: &Header) -> io::Result<()> {
        self.finish_entry()?;
        if header.path.contains(&0) || header.link.contains(&0) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a tar entry's name holds a NUL byte"));
        }
        let split = split_path(&header.path);
        let records = extended_records(header, split.is_some());
        let mut block = [0u8; BLOCK];
        if records.is_empty() {
            let (prefix, name) = split.unwrap_or((b"", &header.path));
            fill_block(&mut block, header, name, &header.link);
            put_string(&mut block[345..345 + PREFIX], prefix);
        } else {
            self.extended(&header.path, &records)?;
            fill_block(&mut block, header, &ascii(&header.path), &ascii(&header.link));
        }
        seal(&mut block);
        self.out.write_all(&block)?;
        self.remaining = header.size;
        self.padding = padding(header.size);
        Ok(())
    }

    /// Tells that `bytes` of content were written through [`TarWriter::inner`].
    pub(crate) fn advance(&mut self, bytes: u64) {
        debug_assert!(bytes <= self.remaining);
        self.remaining = self.remaining.saturating_sub(bytes);
    }

    /// Ends the archive and gives the writer back.
    ///
    /// # Errors
    ///
    /// As [`TarWriter::header`].
    pub fn finish(mut self) -> io::Result<W> {
        self.finish_entry()?;
        self.out.write_all(&[0; 2 * BLOCK])?;
        Ok(self.out)
    }

    fn finish_entry(&mut self) -> io::Result<()> {
        if self.remaining > 0 {
            let message = format!("{} bytes of a tar entry's content are missing", self.remaining);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        self.out.write_all(&[0; BLOCK][..std::mem::take(&mut self.padding)])
    }

    fn extended(&mut self, path: &[u8], records: &[(&[u8], Vec<u8>)]) -> io::Result<()> {
        let mut data = Vec::new();
        for (key, value) in records {
            push_record(&mut data, key, value);
        }
        let mut block = [0u8; BLOCK];
        let name = ascii(&extended_name(path));
        let name = &name[..name.len().min(NAME)];
        let end = name.iter().rposition(|&b| b != b'/').map_or(0, |last| last + 1);
        put_string(&mut block[..NAME], &name[..end]);
        for (start, length) in [(100, 8), (108, 8), (116, 8), (136, 12)] {
            put_octal(&mut block[start..start + length], 0);
        }
        put_octal(&mut block[124..136], data.len() as u64);
        block[156] = b'x';
        seal(&mut block);
        self.out.write_all(&block)?;
        self.out.write_all(&data)?;
        self.out.write_all(&[0; BLOCK][..padding(data.len() as u64)])
    }
}

impl<W: Write> Write for TarWriter<W> {
    /// Writes content of the current entry; `WriteZero` once the entry is full.
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let fits = data.len().min(usize::try_from(self.remaining).unwrap_or(usize::MAX));
        let written = if fits == 0 { 0 } else { self.out.write(&data[..fits])? };
        self.remaining -= written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// The records that the header block cannot carry, ordered by key. Empty: the block suffices.
///
/// A long name that ustar can split is a record only if there are other records, as the split is not used then.
fn extended_records(header: &Header, splittable: bool) -> Vec<(&[u8], Vec<u8>)> {
    let mut records: Vec<(&[u8], Vec<u8>)> =
        header.records.iter().map(|(k, v)| (k.as_slice(), v.clone())).collect();
    for (key, value, width) in
        [(&b"uid"[..], header.uid, 8), (b"gid", header.gid, 8), (b"size", header.size, 12)]
    {
        if !fits_octal(value, width) {
            records.push((key, value.to_string().into_bytes()));
        }
    }
    if header.mtime.nanoseconds != 0
        || u64::try_from(header.mtime.seconds).map_or(true, |s| !fits_octal(s, 12))
    {
        records.push((b"mtime", pax_time(header.mtime)));
    }
    if header.link.len() > NAME || !header.link.is_ascii() {
        records.push((b"linkpath", header.link.clone()));
    }
    if !header.path.is_ascii() || header.path.len() > NAME && !(splittable && records.is_empty()) {
        records.push((b"path", header.path.clone()));
    }
    records.sort_by(|a, b| a.0.cmp(b.0));
    records
}

/// Splits a name that is too long for the name field into prefix and name, at the last possible slash.
fn split_path(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if path.len() <= NAME || !path.is_ascii() {
        return None;
    }
    let end = if path.len() > PREFIX + 1 {
        PREFIX + 1
    } else if path.ends_with(b"/") {
        path.len() - 1
    } else {
        path.len()
    };
    let slash = path[..end].iter().rposition(|&b| b == b'/')?;
    let name = &path[slash + 1..];
    (slash > 0 && slash <= PREFIX && !name.is_empty() && name.len() <= NAME).then(|| (&path[..slash], name))
}

/// The name of the entry that holds the records for `path`: `dir/PaxHeaders.0/file`.
fn extended_name(path: &[u8]) -> Vec<u8> {
    let slash = path.iter().rposition(|&b| b == b'/').map_or(0, |at| at + 1);
    let (directory, file) = path.split_at(slash);
    let mut name = Vec::with_capacity(path.len() + 14);
    // The join drops empty components, as cleaning a path does.
    for part in directory.split(|&b| b == b'/').filter(|part| !part.is_empty()) {
        name.extend_from_slice(part);
        name.push(b'/');
    }
    name.extend_from_slice(b"PaxHeaders.0");
    if !file.is_empty() {
        name.push(b'/');
        name.extend_from_slice(file);
    }
    name
}

fn fill_block(block: &mut [u8; BLOCK], header: &Header, name: &[u8], link: &[u8]) {
    put_string(&mut block[..NAME], name);
    put_octal(&mut block[100..108], header.mode.into());
    put_octal(&mut block[108..116], header.uid);
    put_octal(&mut block[116..124], header.gid);
    put_octal(&mut block[124..136], header.size);
    put_octal(&mut block[136..148], u64::try_from(header.mtime.seconds).unwrap_or(0));
    block[156] = header.kind.flag();
    put_string(&mut block[157..257], link);
    put_octal(&mut block[329..337], header.device.0.into());
    put_octal(&mut block[337..345], header.device.1.into());
}

/// Writes the magic and the checksum.
fn seal(block: &mut [u8; BLOCK]) {
    block[257..265].copy_from_slice(b"ustar\x0000");
    block[148..156].fill(b' ');
    let sum: u64 = block.iter().map(|&b| u64::from(b)).sum();
    put_octal(&mut block[148..155], sum);
}

fn fits_octal(value: u64, width: usize) -> bool {
    value < 1 << (3 * (width - 1))
}

/// Octal digits with leading zeros and a final NUL; a value that does not fit becomes zero (a PAX record has it).
fn put_octal(field: &mut [u8], value: u64) {
    let digits = field.len() - 1;
    let mut value = if fits_octal(value, field.len()) { value } else { 0 };
    for at in (0..digits).rev() {
        field[at] = b'0' + (value & 7) as u8;
        value >>= 3;
    }
    field[digits] = 0;
}

/// Copies what fits. A cut that would end in a slash drops it: some readers take such a name for a folder's.
fn put_string(field: &mut [u8], value: &[u8]) {
    let fits = value.len().min(field.len());
    field[..fits].copy_from_slice(&value[..fits]);
    if value.len() > field.len() && field.last() == Some(&b'/') {
        let end = field.iter().rposition(|&b| b != b'/').map_or(0, |last| last + 1);
        field[end] = 0;
    }
}

/// The name without its bytes outside of ASCII; the record has it in full.
fn ascii(name: &[u8]) -> Vec<u8> {
    name.iter().copied().filter(u8::is_ascii).collect()
}

fn push_record(data: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let content = key.len() + value.len() + 3;
    let mut size = content + decimal_digits(content);
    size = content + decimal_digits(size);
    data.extend_from_slice(size.to_string().as_bytes());
    data.push(b' ');
    data.extend_from_slice(key);
    data.push(b'=');
    data.extend_from_slice(value);
    data.push(b'\n');
}

fn decimal_digits(value: usize) -> usize {
    value.checked_ilog10().unwrap_or(0) as usize + 1
}

/// Seconds with as many decimals as needed.
fn pax_time(time: Timestamp) -> Vec<u8> {
    if time.nanoseconds == 0 {
        return time.seconds.to_string().into_bytes();
    }
    let (sign, seconds, nanoseconds) = if time.seconds < 0 {
        ("-", -(time.seconds + 1), 1_000_000_000 - time.nanoseconds)
    } else {
        ("", time.seconds, time.nanoseconds)
    };
    format!("{sign}{seconds}.{nanoseconds:09}").trim_end_matches('0').into()
}

#[cfg(test)]
mod tests {
    use super::super::Kind;
    use super::*;

    fn written(headers: &[Header]) -> Vec<u8> {
        let mut tar = TarWriter::new(Vec::new());
        for header in headers {
            tar.header(header).expect("header");
            tar.write_all(&vec![b'x'; header.size as usize]).expect("content");
        }
        tar.finish().expect("finish")
    }

    #[test]
    fn a_plain_file_is_one_ustar_block() {
        let mut header = Header::new(Kind::File, "a/b");
        (header.mode, header.uid, header.size, header.mtime.seconds) = (0o644, 1000, 3, 1_700_000_000);
        let bytes = written(&[header]);
        assert_eq!(bytes.len(), 2 * 512 + 1024);
        assert_eq!(&bytes[..4], b"a/b\0");
        assert_eq!(&bytes[100..148], b"0000644\x000001750\x000000000\x0000000000003\x0014524770400\0");
        assert_eq!(&bytes[257..265], b"ustar\x0000");
        assert_eq!(&bytes[154..156], b"\0 ");
        assert_eq!(&bytes[329..345], b"0000000\x000000000\0");
    }

    #[test]
    fn a_long_name_is_split_unless_other_records_are_needed() {
        let name = format!("{}/{}", "d".repeat(90), "f".repeat(90));
        let bytes = written(&[Header::new(Kind::File, name.clone())]);
        assert_eq!(&bytes[345..435], "d".repeat(90).as_bytes());
        assert_eq!(&bytes[..91], format!("{}\0", "f".repeat(90)).as_bytes());

        let mut header = Header::new(Kind::File, name.clone());
        header.set_xattr(b"security.capability", vec![1, 0, 2]);
        let bytes = written(&[header]);
        assert_eq!(bytes[156], b'x');
        assert!(bytes[..100].starts_with(format!("{}/PaxHead", "d".repeat(90)).as_bytes()));
        let records = &bytes[512..1024];
        assert!(records.starts_with(b"40 SCHILY.xattr.security.capability=\x01\0\x02\n191 path=ddd"));
    }

    #[test]
    fn names_outside_of_ascii_and_long_links_are_records() {
        let mut header = Header::new(Kind::Symlink, b"caf\xe9".to_vec());
        header.link = vec![b'l'; 101];
        let bytes = written(&[header]);
        assert_eq!(bytes[156], b'x');
        assert_eq!(&bytes[..17], b"PaxHeaders.0/caf\0");
        let expected = [b"115 linkpath=".as_slice(), &[b'l'; 101], b"\n13 path=caf\xe9\n"].concat();
        assert_eq!(&bytes[512..512 + expected.len()], expected);
        assert_eq!(&bytes[1024..1028], b"caf\0");
    }

    #[test]
    fn the_length_of_a_record_counts_its_own_digits() {
        let mut data = Vec::new();
        push_record(&mut data, b"key", &[b'v'; 92]);
        assert!(data.starts_with(b"101 key="));
        assert_eq!(data.len(), 101);
    }

    #[test]
    fn times_before_1970_and_large_ids_are_records() {
        let mut header = Header::new(Kind::Directory, "d/");
        (header.uid, header.mtime.seconds) = (u64::from(u32::MAX), -2);
        let bytes = written(&[header]);
        assert!(bytes[512..].starts_with(b"12 mtime=-2\n18 uid=4294967295\n"));
        assert_eq!(&bytes[..15], b"d/PaxHeaders.0\0");
        assert_eq!(pax_time(Timestamp { seconds: -2, nanoseconds: 500_000_000 }), b"-1.5");
    }

    #[test]
    fn missing_content_is_an_error() {
        let mut tar = TarWriter::new(Vec::new());
        let mut header = Header::new(Kind::File, "f");
        header.size = 2;
        tar.header(&header).expect("header");
        tar.write_all(b"1").expect("content");
        assert!(tar.finish().is_err());
    }
}
