//! Reading, writing and normalising platform specifiers.

use super::{Platform, host_arch, host_os, join};

/// A string is not a platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlatformError {
    /// A part has characters it may not have, or there are too many parts.
    #[error("invalid platform {0:?}: want os[(version)]/arch[/variant], such as linux/arm64")]
    Format(String),
    /// A part that is empty, or has characters it may not have. The words are those that clients know.
    #[error(
        "{part:?} is an invalid component of {whole:?}: platform specifier component must match \"^[A-Za-z0-9_.-]+$\": \
         invalid argument"
    )]
    Part {
        /// The part.
        part: String,
        /// The specifier.
        whole: String,
    },
    /// A single word that is neither an operating system nor an architecture.
    #[error("{0:?}: unknown operating system or architecture")]
    Unknown(String),
}

const KNOWN_OS: &[&str] = &[
    "aix",
    "android",
    "darwin",
    "dragonfly",
    "freebsd",
    "hurd",
    "illumos",
    "ios",
    "js",
    "linux",
    "nacl",
    "netbsd",
    "openbsd",
    "plan9",
    "solaris",
    "windows",
    "zos",
];

const KNOWN_ARCH: &[&str] = &[
    "386",
    "amd64",
    "amd64p32",
    "arm",
    "armbe",
    "arm64",
    "arm64be",
    "ppc64",
    "ppc64le",
    "loong64",
    "mips",
    "mipsle",
    "mips64",
    "mips64le",
    "mips64p32",
    "mips64p32le",
    "ppc",
    "riscv",
    "riscv64",
    "s390",
    "s390x",
    "sparc",
    "sparc64",
    "wasm",
];

pub(super) fn parse(s: &str) -> Result<Platform, PlatformError> {
    let fail = || PlatformError::Format(s.chars().take(100).collect());
    let parts: Vec<&str> = s.splitn(4, '/').collect();
    let mut p = parse_os(parts[0]).ok_or_else(fail)?;
    if let Some(part) = parts[1..].iter().find(|part| !valid_part(part)) {
        let short = |s: &str| s.chars().take(100).collect();
        return Err(PlatformError::Part { part: short(part), whole: short(s) });
    }
    match parts[..] {
        [only] if KNOWN_OS.contains(&p.os.as_str()) => {
            let _ = only;
            p.architecture = host_arch().to_owned();
        }
        [only] => {
            (p.architecture, p.variant) = normalize_arch(only, "");
            drop_default_arm(&mut p);
            if !KNOWN_ARCH.contains(&p.architecture.as_str()) {
                return Err(PlatformError::Unknown(only.chars().take(100).collect()));
            }
            p.os = host_os().to_owned();
        }
        [_, arch] => {
            (p.architecture, p.variant) = normalize_arch(arch, "");
            drop_default_arm(&mut p);
        }
        [_, arch, variant] => {
            (p.architecture, p.variant) = normalize_arch(arch, variant);
            if p.architecture == "arm64" && p.variant.is_empty() {
                p.variant = "v8".to_owned();
            }
        }
        _ => return Err(fail()),
    }
    Ok(p)
}

/// `linux/arm` keeps an empty variant until it is normalised.
fn drop_default_arm(p: &mut Platform) {
    if p.architecture == "arm" && p.variant == "v7" {
        p.variant.clear();
    }
}

/// `windows(10.0.20348+win32k)`: the options stand in brackets, percent-encoded.
fn parse_os(s: &str) -> Option<Platform> {
    let (os, options) = match s.split_once('(') {
        Some((os, rest)) => (os, Some(rest.strip_suffix(')')?)),
        None => (s, None),
    };
    if os.is_empty() || !os.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-')) {
        return None;
    }
    let mut p = Platform { os: normalize_os(os), ..Platform::default() };
    let mut options = options.unwrap_or_default().split('+');
    p.os_version = unescape(options.next().unwrap_or_default())?;
    for feature in options {
        if feature.is_empty() {
            return None;
        }
        p.os_features.push(unescape(feature)?);
    }
    Some(p)
}

fn valid_part(s: &str) -> bool {
    !s.is_empty() && s.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

fn unescape(s: &str) -> Option<String> {
    let valid = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-' | b'%');
    if !s.bytes().all(valid) {
        return None;
    }
    let mut out = Vec::with_capacity(s.len());
    let mut bytes = s.bytes();
    while let Some(b) = bytes.next() {
        if b == b'%' {
            let hi = char::from(bytes.next()?).to_digit(16)?;
            let lo = char::from(bytes.next()?).to_digit(16)?;
            out.push((hi * 16 + lo) as u8);
        } else {
            out.push(b);
        }
    }
    String::from_utf8(out).ok()
}

fn escape(s: &str) -> String {
    let mut out = String::with_capacity(s.len());
    for c in s.chars() {
        match c {
            '%' => out.push_str("%25"),
            '+' => out.push_str("%2B"),
            '(' => out.push_str("%28"),
            ')' => out.push_str("%29"),
            '/' => out.push_str("%2F"),
            c => out.push(c),
        }
    }
    out
}

pub(super) fn format_all(p: &Platform) -> String {
    if p.os.is_empty() {
        return "unknown".to_owned();
    }
    let mut features: Vec<String> =
        p.os_features.iter().filter(|f| !f.is_empty()).map(|f| escape(f)).collect();
    features.sort();
    features.dedup();
    if p.os_version.is_empty() && features.is_empty() {
        return p.format();
    }
    let mut options = escape(&p.os_version);
    for f in &features {
        options.push('+');
        options.push_str(f);
    }
    join(&format!("{}({options})", p.os), &p.architecture, &p.variant)
}

pub(super) fn normalize_os(os: &str) -> String {
    match os.to_lowercase().as_str() {
        "" => host_os().to_owned(),
        "macos" => "darwin".to_owned(),
        os => os.to_owned(),
    }
}

pub(super) fn normalize_arch(arch: &str, variant: &str) -> (String, String) {
    let (arch, variant) = (arch.to_lowercase(), variant.to_lowercase());
    let (arch, variant) = match (arch.as_str(), variant.as_str()) {
        ("i386", _) => ("386", ""),
        ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64", ""),
        ("x86_64" | "x86-64", v) => ("amd64", v),
        ("aarch64" | "arm64", "8" | "v8" | "v8.0") => ("arm64", ""),
        ("aarch64" | "arm64", "9" | "9.0" | "v9.0") => ("arm64", "v9"),
        ("aarch64", v) => ("arm64", v),
        ("armhf", _) => ("arm", "v7"),
        ("armel", _) => ("arm", "v6"),
        ("arm", "" | "7") => ("arm", "v7"),
        ("arm", "5") => ("arm", "v5"),
        ("arm", "6") => ("arm", "v6"),
        ("arm", "8") => ("arm", "v8"),
        other => other,
    };
    (arch.to_owned(), variant.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_and_formats() {
        for (given, want) in [
            ("linux/amd64", "linux/amd64"),
            ("Linux/X86_64", "linux/amd64"),
            ("linux/arm64/v8", "linux/arm64/v8"),
            ("linux/aarch64", "linux/arm64"),
            ("linux/arm", "linux/arm"),
            ("linux/arm/7", "linux/arm/v7"),
            ("linux/armhf", "linux/arm"),
            ("macos/arm64", "darwin/arm64"),
            ("windows(10.0.20348.1)/amd64", "windows(10.0.20348.1)/amd64"),
            ("windows(10.0+b+a)/amd64", "windows(10.0+a+b)/amd64"),
            ("windows(a%2Bb)/amd64", "windows(a%2Bb)/amd64"),
            ("windows(+win32k)/amd64", "windows(+win32k)/amd64"),
        ] {
            assert_eq!(parse(given).unwrap().format_all(), want);
        }
        assert_eq!(parse("arm64").unwrap().os, host_os());
        assert_eq!(parse("windows").unwrap().architecture, host_arch());
        assert_eq!(parse("linux/arm").unwrap().normalize().format(), "linux/arm/v7");
        assert_eq!(parse("linux/arm64/v8").unwrap().normalize().format(), "linux/arm64");
        assert_eq!(parse("windows(1.2.3)/amd64").unwrap().format(), "windows/amd64");
    }

    #[test]
    fn refuses() {
        for bad in [
            "",
            "*",
            "linux/*",
            "/",
            "linux/",
            "a/b/c/d",
            "quux",
            "windows(1/amd64",
            "windows)1/amd64",
            "l x/a",
            "w(%2)/a",
            "w(+)/a",
            "é",
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}
