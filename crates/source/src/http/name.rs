//! What a downloaded file is called.

use url::Url;

/// The name of a file that has no better one.
const DEFAULT: &str = "download";

/// The name that is asked for, else the one of the server's `Content-Disposition`, else the last part of the URL's path.
pub(super) fn file_name(url: &str, asked: Option<&str>, disposition: Option<&str>) -> String {
    if let Some(asked) = asked {
        return safe_name(asked);
    }
    if let Some(name) = disposition.and_then(of_disposition)
        && !name.is_empty()
        && !name.ends_with('/')
    {
        return safe_name(&name);
    }
    let path = Url::parse(url).ok().and_then(|url| percent_decode(url.path()));
    safe_name(path.as_deref().unwrap_or_default())
}

/// The last component of `name`, or `download` when that is no name for a file.
pub(crate) fn safe_name(name: &str) -> String {
    let separator = |c: char| c == '/' || (cfg!(windows) && c == '\\');
    let base = name.trim().trim_end_matches(separator).rsplit(separator).next().unwrap_or_default();
    let bad = matches!(base, "" | "." | "..") || base.chars().any(char::is_control);
    if bad { DEFAULT.to_owned() } else { base.to_owned() }
}

/// The `filename` of a `Content-Disposition` header (RFC 6266), also in its encoded form; `None` when the header is malformed.
fn of_disposition(header: &str) -> Option<String> {
    let (_kind, mut rest) = header.split_once(';')?;
    let mut plain = None;
    loop {
        rest = rest.trim_start();
        if rest.is_empty() {
            return plain;
        }
        let (key, after) = rest.split_once('=')?;
        let (value, after) = value_of(after)?;
        match key.trim().to_ascii_lowercase().as_str() {
            "filename" => plain = Some(value),
            "filename*" => return of_extended(&value),
            _ => {}
        }
        rest = after.trim_start();
        rest = match rest.strip_prefix(';') {
            Some(more) => more,
            None if rest.is_empty() => rest,
            None => return None,
        };
    }
}

/// A token or a quoted string, and what follows it.
fn value_of(text: &str) -> Option<(String, &str)> {
    let text = text.trim_start();
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([';', ' ', '\t']).unwrap_or(text.len());
        return Some((text[..end].to_owned(), &text[end..]));
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => value.push(chars.next()?.1),
            c => value.push(c),
        }
    }
    None
}

/// `UTF-8'en'na%C3%AFve` (RFC 8187).
fn of_extended(value: &str) -> Option<String> {
    let mut parts = value.splitn(3, '\'');
    let (charset, _language, text) = (parts.next()?, parts.next()?, parts.next()?);
    let known = charset.eq_ignore_ascii_case("utf-8") || charset.eq_ignore_ascii_case("us-ascii");
    if known { percent_decode(text) } else { None }
}

fn percent_decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let mut digit = || char::from(bytes.next()?).to_digit(16);
        let (high, low) = (digit()?, digit()?);
        out.push(u8::try_from(high * 16 + low).ok()?);
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let name = |url, asked, header| file_name(url, asked, header);
        assert_eq!(name("http://x/a/b.tar?c=d#e", None, None), "b.tar");
        assert_eq!(name("http://x/a/b%20c", None, None), "b c");
        assert_eq!(name("http://x/a/", None, None), "a");
        assert_eq!(name("http://x/", None, None), "download");
        assert_eq!(name("http://x/a%2f..", None, None), "download");
        assert_eq!(name("http://x/a%0ab", None, None), "download");
        assert_eq!(name("http://x/a", Some("../etc/passwd"), Some("attachment; filename=z")), "passwd");
        let header = |h| name("http://x/a", None, Some(h));
        assert_eq!(header("attachment; filename=\"my img.jpg\""), "my img.jpg");
        assert_eq!(header("attachment; FileName=b.txt; size=3"), "b.txt");
        assert_eq!(header("attachment; filename=\"..\\\\..\\\"\""), "..\\..\"");
        assert_eq!(header("attachment; filename=\"../../x\""), "x");
        assert_eq!(header("attachment; filename=\"folder/\""), "a");
        assert_eq!(header("attachment; filename=\"open"), "a");
        assert_eq!(header("attachment; filename=plain; filename*=UTF-8''na%C3%AFve"), "naïve");
        assert_eq!(header("inline"), "a");
    }
}
