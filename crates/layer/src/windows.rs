//! The layer format of Windows images, both ways, on any host.
//!
//! ```text
//! Hives/              registry changes; written empty, skipped when read
//! Files/              the file tree
//! Files/dir           mode 040755, MSWINDOWS.fileattr=16 (directory), MSWINDOWS.rawsd=<security descriptor>
//! Files/dir/file      mode 100644, MSWINDOWS.fileattr=32 (archive),   MSWINDOWS.rawsd=<security descriptor>
//! ```
//!
//! The security descriptors are those that folders and files get by default below `C:\`: owner Administrators, group SYSTEM.
//! Symbolic links get `Files/` in front of their target, as the reference writes and reads them.

use crate::tar::{Header, Kind};

const FILE_ATTRIBUTES: &[u8] = b"MSWINDOWS.fileattr";
const SECURITY_DESCRIPTOR: &[u8] = b"MSWINDOWS.rawsd";
const CREATION_TIME: &[u8] = b"LIBARCHIVE.creationtime";

/// O:BAG:SYD:(A;OICI;FA;;;BA)(A;OICI;FA;;;SY)(A;;FA;;;BA)(A;OICIIO;GA;;;CO)(A;OICI;0x1200a9;;;BU)(A;CI;LC;;;BU)(A;CI;DC;;;BU)
const DIRECTORY_DESCRIPTOR: &[u8] = b"AQAEgBQAAAAkAAAAAAAAADAAAAABAgAAAAAABSAAAAAgAgAAAQEAAAAAAAUSAAAAAgCoAAcAAAAAAxgA/wEfAAEC\
AAAAAAAFIAAAACACAAAAAxQA/wEfAAEBAAAAAAAFEgAAAAAAGAD/AR8AAQIAAAAAAAUgAAAAIAIAAAALFAAAAAAQAQEAAAAAAAMAAAAAAAMYAKkAEgABAgAA\
AAAABSAAAAAhAgAAAAIYAAQAAAABAgAAAAAABSAAAAAhAgAAAAIYAAIAAAABAgAAAAAABSAAAAAhAgAA";

/// O:BAG:SYD:(A;;FA;;;BA)(A;;FA;;;SY)(A;;0x1200a9;;;BU)
const FILE_DESCRIPTOR: &[u8] =
    b"AQAEgBQAAAAkAAAAAAAAADAAAAABAgAAAAAABSAAAAAgAgAAAQEAAAAAAAUSAAAAAgBMAAMAAAAAABgA/wEfAAECAAAA\
AAAFIAAAACACAAAAABQA/wEfAAEBAAAAAAAFEgAAAAAAGACpABIAAQIAAAAAAAUgAAAAIQIAAA==";

/// The entries that every layer starts with. Their times are zero, so that equal trees make equal layers.
pub(crate) fn leading() -> [Header; 2] {
    ["Hives", "Files"].map(|name| {
        let mut header = Header::new(Kind::Directory, name);
        add_attributes(&mut header);
        header
    })
}

/// Turns an entry of a plain tree into one of a Windows layer.
pub(crate) fn wrap(header: &mut Header) {
    header.path.splice(..0, *b"Files/");
    if !header.link.is_empty() {
        header.link.splice(..0, *b"Files/");
    }
    add_attributes(header);
    let descriptor = match header.kind {
        Kind::Directory => DIRECTORY_DESCRIPTOR,
        Kind::File => FILE_DESCRIPTOR,
        _ => return,
    };
    header.records.insert(SECURITY_DESCRIPTOR.to_vec(), descriptor.to_vec());
}

fn add_attributes(header: &mut Header) {
    let attributes = match header.kind {
        Kind::Directory => {
            header.mode |= 0o40000;
            Some("16")
        }
        Kind::File => {
            header.mode |= 0o100000;
            Some("32")
        }
        _ => None,
    };
    if let Some(attributes) = attributes {
        header.records.insert(FILE_ATTRIBUTES.to_vec(), attributes.into());
    }
    let created = format!("{}.{}", header.mtime.seconds, header.mtime.nanoseconds);
    header.records.insert(CREATION_TIME.to_vec(), created.into_bytes());
}

/// Turns an entry of a Windows layer into one of a plain tree; false if it has no place there.
pub(crate) fn unwrap(header: &mut Header) -> bool {
    let Some(path) = header.path.strip_prefix(b"Files/") else { return false };
    header.path = path.to_vec();
    if let Some(link) = header.link.strip_prefix(b"Files/") {
        header.link = link.to_vec();
    }
    header.records.retain(|key, _| !key.starts_with(b"MSWINDOWS.") && key != CREATION_TIME);
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        let mut header = Header::new(Kind::Symlink, "dir/link");
        header.link = b"target".to_vec();
        let plain = header.clone();
        wrap(&mut header);
        assert_eq!((&header.path[..], &header.link[..]), (&b"Files/dir/link"[..], &b"Files/target"[..]));
        assert!(unwrap(&mut header));
        assert_eq!(header, plain);
    }

    #[test]
    fn only_files_are_unpacked() {
        for name in ["Hives/System_Delta", "Hives", "Files", "Other/x", "UtilityVM/Files/x"] {
            assert!(!unwrap(&mut Header::new(Kind::File, name)), "{name}");
        }
    }

    #[test]
    fn attributes_follow_the_kind() {
        let mut directory = Header::new(Kind::Directory, "d/");
        directory.mode = 0o755;
        wrap(&mut directory);
        assert_eq!(directory.mode, 0o40755);
        assert_eq!(directory.records[FILE_ATTRIBUTES], b"16");
        assert_eq!(directory.records[SECURITY_DESCRIPTOR].len(), 288);
        let [hives, files] = leading();
        assert_eq!((hives.mode, files.records.len()), (0o40000, 2));
    }
}
