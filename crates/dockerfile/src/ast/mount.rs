//! Reading the values of `--mount` and `--device`.

use std::borrow::Cow;

use bytestring::ByteString;

use super::expand::is_plain;
use super::run::{Device, Mount, MountFlag, MountType, Sharing};
use super::{Expander, Run};
use crate::error::{Error, ErrorKind};
use crate::suggest::nearest;
use crate::text::{CsvParts, csv_parts, lower, parse_bool, parse_size, parse_u32};
use crate::word::Word;

const MOUNT_KEYS: [&str; 19] = [
    "type",
    "from",
    "source",
    "target",
    "readonly",
    "id",
    "sharing",
    "required",
    "size",
    "mode",
    "uid",
    "gid",
    "src",
    "dst",
    "destination",
    "ro",
    "rw",
    "readwrite",
    "env",
];

fn refuse(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Flag, message)
}

impl Run {
    /// The mounts as far as they are read: completely after [`super::Command::expand`], before that only `from`.
    pub fn mounts(&self) -> impl Iterator<Item = &Mount> {
        self.mounts.iter().map(|flag| &flag.mount)
    }
}

impl MountFlag {
    /// Reads a flag before its variables are known: only `from`, which can't hold any.
    pub(crate) fn read(raw: Word) -> Result<Self, Error> {
        let mut mount = Mount { read_only: true, ..Mount::default() };
        for field in fields(&raw, "mount")? {
            let Some((key, value)) = field.split_once('=') else { continue };
            if key.eq_ignore_ascii_case("from") {
                if value.find('$').is_some_and(|at| at + 1 < value.len()) {
                    return Err(refuse(
                        "'from' doesn't support variable expansion, define alias stage instead",
                    )
                    .at(raw.span)
                    .expected("`FROM … AS name` above, and `from=name` here"));
                }
                mount.from = share(&raw, matches!(field, Cow::Borrowed(_)), value);
            }
        }
        Ok(Self { raw, mount })
    }

    /// Expands and reads the whole flag.
    pub(crate) fn expand(&mut self, expander: &mut Expander<'_>) -> Result<(), Error> {
        let mut reader = Reader { mount: Mount::default(), read_only: None };
        for field in fields(&self.raw, "mount")? {
            let in_flag = matches!(field, Cow::Borrowed(_));
            let done = match field.split_once('=') {
                None => reader.switch(&field),
                Some((key, value)) if is_plain(value) => {
                    reader.option(key, share(&self.raw, in_flag, value), &field)
                }
                Some((key, value)) => {
                    expander(value).and_then(|value| reader.option(key, value.into(), &field))
                }
            };
            done.map_err(|e| e.at(self.raw.span))?;
        }
        self.mount = reader.finish().map_err(|e| e.at(self.raw.span))?;
        Ok(())
    }
}

/// Part of a field as a text. That of a field that stands in the flag as it is shares the memory of the flag.
fn share(raw: &Word, in_flag: bool, part: &str) -> ByteString {
    if in_flag { raw.text.slice_ref(part) } else { part.into() }
}

fn fields<'r>(raw: &'r Word, flag: &str) -> Result<CsvParts<'r>, Error> {
    csv_parts(raw).map_err(|reason| {
        refuse(format!("--{flag} is no list of comma-separated fields: {reason}")).at(raw.span)
    })
}

struct Reader {
    mount: Mount,
    read_only: Option<bool>,
}

impl Reader {
    /// A field without `=`.
    fn switch(&mut self, field: &str) -> Result<(), Error> {
        match lower(field).as_ref() {
            "readonly" | "ro" => self.read_only = Some(true),
            "readwrite" | "rw" => self.read_only = Some(false),
            "required" => {
                self.only_for(&[MountType::Secret, MountType::Ssh], "required")?;
                self.mount.required = true;
            }
            key => {
                return Err(refuse(format!("'{field}' has no value")).suggest(
                    nearest(key, MOUNT_KEYS)
                        .filter(|k| matches!(*k, "ro" | "rw" | "readonly" | "readwrite" | "required")),
                ));
            }
        }
        Ok(())
    }

    /// A field with `=`, its value expanded.
    fn option(&mut self, key: &str, value: ByteString, field: &str) -> Result<(), Error> {
        let key = lower(key);
        let bad = || refuse(format!("invalid value for {key}: {value}"));
        let bad_number = || refuse(format!("invalid value {value} for {key}"));
        let mount = &mut self.mount;
        match key.as_ref() {
            "type" => mount.kind = mount_type(&value)?,
            "from" => mount.from = value,
            "source" | "src" => mount.source = value,
            "target" | "dst" | "destination" => mount.target = value,
            "readonly" | "ro" => self.read_only = Some(parse_bool(&value).ok_or_else(bad)?),
            "readwrite" | "rw" => self.read_only = Some(!parse_bool(&value).ok_or_else(bad)?),
            "required" => {
                self.only_for(&[MountType::Secret, MountType::Ssh], &key)?;
                self.mount.required = parse_bool(&value).ok_or_else(bad)?;
            }
            "size" => {
                self.only_for(&[MountType::Tmpfs], &key)?;
                self.mount.size = parse_size(&value).ok_or_else(bad)?;
            }
            "id" => mount.id = value,
            "sharing" => mount.sharing = Some(sharing(&value)?),
            "mode" => mount.mode = Some(parse_u32(&value, 8).ok_or_else(bad_number)?),
            "uid" => mount.uid = Some(parse_u32(&value, 10).ok_or_else(bad_number)?),
            "gid" => mount.gid = Some(parse_u32(&value, 10).ok_or_else(bad_number)?),
            "env" => mount.env = Some(value),
            _ => {
                return Err(
                    refuse(format!("unexpected key '{key}' in '{field}'")).suggest(nearest(&key, MOUNT_KEYS))
                );
            }
        }
        Ok(())
    }

    fn only_for(&self, kinds: &[MountType], key: &str) -> Result<(), Error> {
        if kinds.contains(&self.mount.kind) {
            return Ok(());
        }
        Err(refuse(format!("unexpected key '{key}' for mount type '{}'", self.mount.kind.as_str()))
            .expected("`type` before the options of that type"))
    }

    /// The rules between options.
    fn finish(self) -> Result<Mount, Error> {
        let Self { mut mount, read_only } = self;
        let kind = mount.kind;
        if !matches!(kind, MountType::Secret | MountType::Ssh | MountType::Cache) {
            for (name, given) in
                [("mode", mount.mode.is_some()), ("uid", mount.uid.is_some()), ("gid", mount.gid.is_some())]
            {
                if given {
                    return Err(refuse(format!("a {} mount takes no {name}", kind.as_str())));
                }
            }
        }
        mount.read_only = read_only.unwrap_or(!matches!(kind, MountType::Cache | MountType::Tmpfs));
        if kind == MountType::Secret {
            check_secret(&mount)?;
        }
        if mount.sharing.is_some() && kind != MountType::Cache {
            return Err(refuse(format!("a {} mount takes no sharing", kind.as_str())));
        }
        Ok(mount)
    }
}

fn check_secret(mount: &Mount) -> Result<(), Error> {
    if !mount.from.is_empty() {
        return Err(refuse("a secret mount takes no from"));
    }
    if mount.sharing.is_some() {
        return Err(refuse("a secret mount takes no sharing"));
    }
    if mount.source.is_empty() && mount.target.is_empty() && mount.id.is_empty() {
        return Err(refuse("a secret mount without a name").expected("id, source or target"));
    }
    if !mount.source.is_empty() && !mount.id.is_empty() {
        return Err(refuse("source and id name the same thing").expected("one of them"));
    }
    Ok(())
}

fn mount_type(value: &str) -> Result<MountType, Error> {
    Ok(match lower(value).as_ref() {
        "bind" => MountType::Bind,
        "cache" => MountType::Cache,
        "tmpfs" => MountType::Tmpfs,
        "secret" => MountType::Secret,
        "ssh" => MountType::Ssh,
        _ => {
            return Err(refuse(format!("unsupported mount type \"{value}\""))
                .expected("bind, cache, tmpfs, secret or ssh")
                .suggest(nearest(value, MountType::NAMES)));
        }
    })
}

fn sharing(value: &str) -> Result<Sharing, Error> {
    Ok(match value.to_lowercase().as_str() {
        "shared" => Sharing::Shared,
        "private" => Sharing::Private,
        "locked" => Sharing::Locked,
        _ => {
            return Err(refuse(format!("unsupported sharing value \"{value}\""))
                .expected("shared, private or locked")
                .suggest(nearest(value, Sharing::NAMES)));
        }
    })
}

impl Device {
    /// Reads the value of `--device`: a name, and `required`.
    pub(crate) fn read(raw: &Word) -> Result<Self, Error> {
        let mut device = Self::default();
        for field in fields(raw, "device")? {
            device.field(&field).map_err(|e| e.at(raw.span))?;
        }
        Ok(device)
    }

    fn field(&mut self, field: &str) -> Result<(), Error> {
        let (key, value) = field.split_once('=').map_or((field, None), |(key, value)| (key, Some(value)));
        let key = lower(key);
        match (key.as_ref(), value) {
            ("required", None) => self.required = true,
            ("required", Some(value)) => {
                self.required =
                    parse_bool(value).ok_or_else(|| refuse(format!("invalid value for {key}: {value}")))?;
            }
            ("name", Some(_)) if !self.name.is_empty() => {
                return Err(refuse(format!("a second name beside {}", self.name)));
            }
            ("name", Some(value)) => value.clone_into(&mut self.name),
            // The name itself: CDI names hold `=`.
            _ if self.name.is_empty() => field.clone_into(&mut self.name),
            (_, None) => return Err(refuse(format!("'{field}' has no value"))),
            (_, Some(_)) => {
                return Err(refuse(format!("unexpected key '{key}' in '{field}'"))
                    .suggest(nearest(&key, ["name", "required"])));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(text: &str) -> Result<Mount, Error> {
        let mut flag = MountFlag::read(text.into())?;
        flag.expand(&mut |word| Ok(word.replace("$X", "/x")))?;
        Ok(flag.mount)
    }

    #[test]
    fn every_option_of_a_cache() {
        let m = mount("type=cache,id=a,target=$X,sharing=Locked,mode=0755,uid=1,gid=2,from=base,src=s,ro")
            .unwrap();
        assert_eq!((m.kind, &*m.target, &*m.id), (MountType::Cache, "/x", "a"));
        assert_eq!((m.sharing, m.mode, m.uid, m.gid), (Some(Sharing::Locked), Some(0o755), Some(1), Some(2)));
        assert_eq!((&*m.from, &*m.source, m.read_only), ("base", "s", true));
    }

    #[test]
    fn defaults_depend_on_the_type() {
        assert!(mount("target=/a").unwrap().read_only);
        assert!(!mount("type=cache,target=/a").unwrap().read_only);
        assert!(!mount("type=tmpfs,target=/a,size=1k").unwrap().read_only);
        assert!(!mount("target=/a,rw").unwrap().read_only);
        assert!(mount("target=/a,rw=false").unwrap().read_only);
    }

    #[test]
    fn secrets_have_rules() {
        assert_eq!(mount("type=secret,id=a,env=A,required").unwrap().env.as_deref(), Some("A"));
        for bad in [
            "type=secret",
            "type=secret,id=a,src=b",
            "type=secret,id=a,from=b",
            "type=secret,id=a,sharing=shared",
        ] {
            assert!(mount(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let message = |text| mount(text).unwrap_err().to_string();
        assert!(message("type=cahce,target=/a").contains("did you mean cache?"));
        assert!(message("tpye=cache").contains("did you mean type?"));
        assert!(message("target=/a,size=1").contains("size"));
        assert!(message("target=/a,mode=1").contains("mode"));
        assert!(message("type=cache,target=/a,mode=9").contains("mode"));
        assert!(message("from=$x").contains("from"));
        assert!(message("target=/a,foo").contains("foo"));
        assert_eq!(mount("target=/a,from=x$").unwrap().from, "x$");
    }

    #[test]
    fn devices() {
        let device = |text: &str| Device::read(&text.into());
        assert_eq!(device("vendor.com/gpu=a").unwrap().name, "vendor.com/gpu=a");
        assert!(device("name=x,required").unwrap().required);
        assert!(!device("vendor.com/gpu=a,required=false").unwrap().required);
        assert!(device("a,name=b").is_err());
        assert!(device("a,b").is_err());
        assert!(device("a,requird=true").unwrap_err().to_string().contains("required"));
    }
}
