//! The tar format (POSIX ustar), as much of it as the tests need.

const BLOCK: usize = 512;

/// A tar that is being written.
#[derive(Default)]
pub(crate) struct Tar(Vec<u8>);

impl Tar {
    fn entry(&mut self, path: &str, kind: u8, mode: u32, bytes: &[u8], target: &str) {
        let mut header = [0; BLOCK];
        let mut put = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
        put(0, path);
        put(100, &format!("{mode:07o}"));
        put(108, "0000000");
        put(116, "0000000");
        put(124, &format!("{:011o}", bytes.len()));
        put(136, &format!("{:011o}", 900_000_000));
        put(148, "        ");
        put(156, char::from(kind).encode_utf8(&mut [0; 4]));
        put(157, target);
        put(257, "ustar");
        put(263, "00");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.extend(header);
        self.0.extend(bytes);
        self.0.resize(self.0.len().next_multiple_of(BLOCK), 0);
    }

    pub(crate) fn folder(&mut self, path: &str) {
        self.entry(&format!("{path}/"), b'5', 0o755, b"", "");
    }

    pub(crate) fn file(&mut self, path: &str, mode: u32, bytes: &[u8]) {
        self.entry(path, b'0', mode, bytes, "");
    }

    pub(crate) fn link(&mut self, path: &str, target: &str) {
        self.entry(path, b'2', 0o777, b"", target);
    }

    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.0.extend([0; 2 * BLOCK]);
        self.0
    }
}

/// The regular files of a tar with short names, with their bytes.
pub(crate) fn files(tar: &[u8]) -> Vec<(String, &[u8])> {
    let mut found = Vec::new();
    let mut rest = tar;
    while rest.len() >= BLOCK && rest[0] != 0 {
        let (header, after) = rest.split_at(BLOCK);
        let text = |from: usize, to: usize| {
            let bytes = header[from..to].split(|byte| *byte == 0).next().unwrap();
            std::str::from_utf8(bytes).unwrap().trim()
        };
        let size = usize::from_str_radix(text(124, 136), 8).unwrap();
        if matches!(header[156], b'0' | 0) {
            found.push((text(0, 100).to_owned(), &after[..size]));
        }
        rest = &after[size.next_multiple_of(BLOCK)..];
    }
    found
}
