//! Names of vendors, classes, devices and annotations.

/// Splits a kind at its first slash: vendor and class, neither empty.
pub(crate) fn split_kind(kind: &str) -> Option<(&str, &str)> {
    kind.split_once('/').filter(|(vendor, class)| !vendor.is_empty() && !class.is_empty())
}

/// A vendor or class: letters, digits, `_`, `-` and `.`, with a letter first and a letter or digit last.
pub(crate) fn is_vendor_or_class(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic()) && is_word(name, "_-.")
}

/// A device: the same with `:`, and a digit may be first.
pub(crate) fn is_device(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphanumeric()) && is_word(name, "_-.:")
}

/// The key of an annotation: a name of up to 63 characters, maybe after a DNS subdomain of up to 253 and a slash. Case does
/// not matter.
pub(crate) fn is_annotation(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    let (prefix, name) = key.split_once('/').map_or((None, key.as_str()), |(p, name)| (Some(p), name));
    let starts = |text: &str| text.starts_with(|c: char| c.is_ascii_alphanumeric());
    let label = |label: &str| starts(label) && is_word(label, "-");
    let subdomain = |prefix: &str| prefix.len() <= 253 && prefix.split('.').all(label);
    name.len() <= 63 && starts(name) && is_word(name, "-_.") && prefix.is_none_or(subdomain)
}

/// Letters, digits and those `others`, with a letter or digit last.
fn is_word(name: &str, others: &str) -> bool {
    name.chars().all(|c| c.is_ascii_alphanumeric() || others.contains(c))
        && name.ends_with(|c: char| c.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_have_a_vendor_and_a_class() {
        assert_eq!(split_kind("vendor.com/net"), Some(("vendor.com", "net")));
        assert_eq!(split_kind("vendor.com/a/b"), Some(("vendor.com", "a/b")));
        for kind in ["", "net", "/net", "vendor.com/"] {
            assert_eq!(split_kind(kind), None, "{kind}");
        }
    }

    #[test]
    fn names_are_words() {
        for name in ["a", "vendor.com", "a-b_c.d9"] {
            assert!(is_vendor_or_class(name), "{name}");
        }
        for name in ["", "9a", "-a", "a-", "a.", "a/b", "a b", "ä", "aä", "a:b", "a\0b"] {
            assert!(!is_vendor_or_class(name), "{name}");
        }
        for name in ["0", "gpu0", "0:1", "all", "GPU-1.2:3"] {
            assert!(is_device(name), "{name}");
        }
        for name in ["", ":", ":a", "a:", "*", "a=b", "a,b", "../a"] {
            assert!(!is_device(name), "{name}");
        }
    }

    #[test]
    fn annotations_are_qualified_names() {
        for key in ["a", "foo.bar.baz", "org.mobyproject.buildkit.device.class", "Example.com/MyName"] {
            assert!(is_annotation(key), "{key}");
        }
        let long = "a".repeat(64);
        for key in ["", "/a", "a/", "a/b/c", "-a", "a b", "ex_ample.com/a", "a..b/c", long.as_str()] {
            assert!(!is_annotation(key), "{key}");
        }
    }
}
