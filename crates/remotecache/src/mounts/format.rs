//! A cache mount as a descriptor. What is read was written by strangers.

use kiln_oci::{Descriptor, Digest, media_type};
use kiln_worker::MountContent;

use crate::import::UNCOMPRESSED;

/// The media type of a mount, before how it is packed.
const MEDIA_TYPE: &str = "application/vnd.kiln.cachemount.v0.tar";
const ID: &str = "dev.kiln.cachemount.id";
const BASE: &str = "dev.kiln.cachemount.base";
const OWNER: &str = "dev.kiln.cachemount.owner";
const MODE: &str = "dev.kiln.cachemount.mode";
const SIZE: &str = "dev.kiln.cachemount.size";

/// The most cache mounts of one cache that are looked at.
const MAX_MOUNTS: usize = 256;
/// The longest id of a mount, in bytes.
const MAX_ID: usize = 4096;
/// The most bytes that the tar of a mount may have.
const MAX_SIZE: u64 = 1 << 40;

/// A cache mount beside a cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MountEntry {
    /// Its id in LLB.
    pub(crate) id: String,
    /// The content digest of the files that it began with.
    pub(crate) base: Option<Digest>,
    /// What is in it.
    pub(crate) content: MountContent,
}

impl MountEntry {
    /// How the cache's manifest describes it.
    pub(crate) fn describe(&self) -> Descriptor {
        let content = &self.content;
        let packing = match content.blob.media_type.as_str() {
            media_type::OCI_LAYER_GZIP => "+gzip",
            media_type::OCI_LAYER_ZSTD => "+zstd",
            _ => "",
        };
        let kind = format!("{MEDIA_TYPE}{packing}");
        let mut own = Descriptor::new(kind, content.blob.digest.clone(), content.blob.size);
        let told = [
            (ID, self.id.clone()),
            (OWNER, format!("{}:{}", content.uid, content.gid)),
            (MODE, format!("{:04o}", content.mode)),
            (SIZE, content.size.to_string()),
            (UNCOMPRESSED, content.diff_id.to_string()),
        ];
        own.annotations.extend(told.map(|(key, value)| (key.to_owned(), value)));
        if let Some(base) = &self.base {
            own.annotations.insert(BASE.to_owned(), base.to_string());
        }
        own
    }

    /// Reads one; `None` for what is no cache mount.
    fn parse(descriptor: &Descriptor) -> Option<Result<Self, &'static str>> {
        let packing = descriptor.media_type.strip_prefix(MEDIA_TYPE)?;
        let layer = match packing {
            "" => media_type::OCI_LAYER,
            "+gzip" => media_type::OCI_LAYER_GZIP,
            "+zstd" => media_type::OCI_LAYER_ZSTD,
            _ => return Some(Err("is packed in an unknown way")),
        };
        let text = |name: &str| descriptor.annotations.get(name).map(String::as_str);
        let entry = || {
            let id = text(ID).filter(|id| !id.is_empty() && id.len() <= MAX_ID).ok_or("has no usable id")?;
            let base =
                text(BASE).map(Digest::parse).transpose().map_err(|_| "has a base that is no digest")?;
            let (uid, gid) = text(OWNER).and_then(|owner| owner.split_once(':')).ok_or("has no owner")?;
            let number = |text: &str| text.parse::<u32>().map_err(|_| "has an owner that is no number");
            let mode = text(MODE).and_then(|mode| u32::from_str_radix(mode, 8).ok());
            let size = text(SIZE).and_then(|size| size.parse::<u64>().ok());
            let diff_id = text(UNCOMPRESSED).and_then(|id| Digest::parse(id).ok());
            let content = MountContent {
                blob: Descriptor::new(layer, descriptor.digest.clone(), descriptor.size),
                diff_id: diff_id.ok_or("has no digest of its tar")?,
                size: size.filter(|size| *size <= MAX_SIZE).ok_or("has no size, or is too large")?,
                uid: number(uid)?,
                gid: number(gid)?,
                mode: mode.filter(|mode| *mode <= 0o7777).ok_or("has no mode")?,
            };
            Ok(Self { id: id.to_owned(), base, content })
        };
        Some(entry())
    }
}

/// Takes the cache mounts out of what a manifest lists beside its config: the mounts, and what else there was. Those that
/// make no sense are left out, and of two for one mount the second is.
pub(crate) fn read(listed: &[Descriptor]) -> (Vec<MountEntry>, Vec<&Descriptor>) {
    let (mut mounts, mut others) = (Vec::<MountEntry>::new(), Vec::with_capacity(listed.len()));
    for descriptor in listed {
        match MountEntry::parse(descriptor) {
            None => others.push(descriptor),
            Some(Err(problem)) => {
                tracing::warn!(digest = %descriptor.digest, problem, "a cache mount of an imported cache is left out");
            }
            Some(Ok(entry)) => {
                let again = mounts.iter().any(|known| (&known.id, &known.base) == (&entry.id, &entry.base));
                if !again && mounts.len() < MAX_MOUNTS {
                    mounts.push(entry);
                }
            }
        }
    }
    (mounts, others)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> MountEntry {
        MountEntry {
            id: "/go-build".into(),
            base: Some(Digest::sha256("base")),
            content: MountContent {
                blob: Descriptor::new(media_type::OCI_LAYER_ZSTD, Digest::sha256("blob"), 4),
                diff_id: Digest::sha256("tar"),
                size: 3,
                uid: 1000,
                gid: 0,
                mode: 0o755,
            },
        }
    }

    #[test]
    fn descriptors_are_pinned() {
        let json = kiln_oci::gojson::to_string(&entry().describe()).unwrap();
        let expected = format!(
            concat!(
                r#"{{"mediaType":"application/vnd.kiln.cachemount.v0.tar+zstd","digest":"{}","size":4,"#,
                r#""annotations":{{"containerd.io/uncompressed":"{}","dev.kiln.cachemount.base":"{}","#,
                r#""dev.kiln.cachemount.id":"/go-build","dev.kiln.cachemount.mode":"0755","#,
                r#""dev.kiln.cachemount.owner":"1000:0","dev.kiln.cachemount.size":"3"}}}}"#
            ),
            Digest::sha256("blob"),
            Digest::sha256("tar"),
            Digest::sha256("base"),
        );
        assert_eq!(json, expected);
    }

    #[test]
    fn what_is_written_is_read() {
        for (base, layer) in [
            (None, media_type::OCI_LAYER),
            (Some(Digest::sha256("x")), media_type::OCI_LAYER_GZIP),
            (None, media_type::OCI_LAYER_ZSTD),
        ] {
            let mut entry = entry();
            (entry.base, entry.content.blob.media_type) = (base, layer.into());
            let layer = Descriptor::of(media_type::OCI_LAYER, b"layer");
            let listed = [layer.clone(), entry.describe()];
            assert_eq!(read(&listed), (vec![entry], vec![&layer]));
        }
    }

    #[test]
    fn what_makes_no_sense_is_left_out() {
        let changed = |key: &str, value: Option<&str>| {
            let mut descriptor = entry().describe();
            match value {
                Some(value) => descriptor.annotations.insert(key.into(), value.into()),
                None => descriptor.annotations.remove(key),
            };
            descriptor
        };
        let long = "x".repeat(MAX_ID + 1);
        let mut listed = vec![
            changed(ID, None),
            changed(ID, Some("")),
            changed(ID, Some(&long)),
            changed(BASE, Some("base")),
            changed(OWNER, Some("root")),
            changed(OWNER, Some("-1:0")),
            changed(MODE, Some("10000")),
            changed(MODE, Some("rwx")),
            changed(SIZE, Some("18446744073709551615")),
            changed(UNCOMPRESSED, Some("sha256:zz")),
        ];
        let mut unknown = entry().describe();
        unknown.media_type.push_str("+lzma");
        listed.push(unknown);
        assert_eq!(read(&listed), (vec![], vec![]));
        let many: Vec<_> = (0..300).map(|n| changed(ID, Some(&format!("id{}", n % 299)))).collect();
        assert_eq!(read(&many).0.len(), MAX_MOUNTS);
        assert_eq!(read(&[entry().describe(), entry().describe()]).0.len(), 1);
    }
}
