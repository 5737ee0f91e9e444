//! The filter language of disk usage and prune (containerd's, which BuildKit's clients write).
//!
//! ```text
//! filter    = selector { "," selector }             all must match; of several filters any
//! selector  = path [ operator value ]               without an operator: the field is there, or true
//! path      = field { "." field }
//! field     = letters, digits, "_"  |  "quoted"
//! operator  = "=="  |  "!="  |  "~="                ~= is a regular expression that matches anywhere
//! value     = anything without space and comma  |  "quoted"; after ~= also |quoted| and /quoted/
//! ```

use regex::Regex;

/// A filter that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid filter {input:?} at character {at}: {problem}")]
pub struct FilterError {
    /// The whole filter.
    pub input: String,
    /// Where, counted in bytes from 0.
    pub at: usize,
    /// What is wrong there.
    pub problem: String,
}

/// Longest filter that is read, in bytes.
const MAX: usize = 64 << 10;

/// A set of filters: matches what any of them matches, and everything when there are none.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    any: Vec<Vec<Selector>>,
}

#[derive(Clone, Debug)]
struct Selector {
    path: Vec<String>,
    test: Test,
}

#[derive(Clone, Debug)]
enum Test {
    Present,
    Equal(String),
    NotEqual(String),
    Matches(Regex),
}

impl Filter {
    /// Reads filters. An empty one matches everything.
    ///
    /// # Errors
    /// [`FilterError`] for the first that is wrong.
    pub fn parse<S: AsRef<str>>(filters: &[S]) -> Result<Self, FilterError> {
        let any = filters.iter().map(|text| Parser::new(text.as_ref()).filter()).collect::<Result<_, _>>()?;
        Ok(Self { any })
    }

    /// Whether a thing matches: `field` gives the value of a field and whether it is there.
    pub fn matches<'a>(&self, field: impl Fn(&[String]) -> (std::borrow::Cow<'a, str>, bool)) -> bool {
        let fits = |selector: &Selector| {
            let (value, present) = field(&selector.path);
            match &selector.test {
                Test::Present => present,
                Test::Equal(wanted) => present && value == wanted.as_str(),
                Test::NotEqual(wanted) => value != wanted.as_str(),
                Test::Matches(regex) => regex.is_match(&value),
            }
        };
        self.any.is_empty() || self.any.iter().any(|all| all.iter().all(fits))
    }
}

struct Parser<'a> {
    input: &'a str,
    at: usize,
}

impl<'a> Parser<'a> {
    fn new(input: &'a str) -> Self {
        Self { input, at: 0 }
    }

    fn fail<T>(&self, problem: impl Into<String>) -> Result<T, FilterError> {
        Err(FilterError { input: self.input.to_owned(), at: self.at, problem: problem.into() })
    }

    fn rest(&self) -> &'a str {
        &self.input[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn skip_space(&mut self) {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start().len();
    }

    fn take_while(&mut self, wanted: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let end = rest.find(|c| !wanted(c)).unwrap_or(rest.len());
        self.at += end;
        &rest[..end]
    }

    fn filter(mut self) -> Result<Vec<Selector>, FilterError> {
        if self.input.len() > MAX {
            return self.fail("too long");
        }
        let mut all = Vec::new();
        if self.input.is_empty() {
            return Ok(all);
        }
        loop {
            all.push(self.selector()?);
            self.skip_space();
            match self.peek() {
                None => return Ok(all),
                Some(',') => self.at += 1,
                Some(other) => return self.fail(format!("unexpected {other:?}")),
            }
        }
    }

    fn selector(&mut self) -> Result<Selector, FilterError> {
        let mut path = vec![self.field()?];
        while self.peek() == Some('.') {
            self.at += 1;
            path.push(self.field()?);
        }
        self.skip_space();
        if matches!(self.peek(), None | Some(',')) {
            return Ok(Selector { path, test: Test::Present });
        }
        let start = self.at;
        let operator = self.take_while(|c| matches!(c, '=' | '!' | '~'));
        if !matches!(operator, "==" | "!=" | "~=") {
            self.at = start;
            return self.fail(format!("unsupported operator {operator:?}: want ==, != or ~="));
        }
        self.skip_space();
        let value_at = self.at;
        let value = self.value(operator == "~=")?;
        let test = match operator {
            "==" => Test::Equal(value),
            "!=" => Test::NotEqual(value),
            _ => match Regex::new(&value) {
                Ok(regex) => Test::Matches(regex),
                Err(error) => {
                    self.at = value_at;
                    return self.fail(error.to_string());
                }
            },
        };
        Ok(Selector { path, test })
    }

    fn field(&mut self) -> Result<String, FilterError> {
        self.skip_space();
        if self.peek() == Some('"') {
            return self.quoted('"');
        }
        let field = self.take_while(|c| c.is_ascii_alphanumeric() || c == '_');
        if field.is_empty() { self.fail("expected a field") } else { Ok(field.to_owned()) }
    }

    fn value(&mut self, alternative_quotes: bool) -> Result<String, FilterError> {
        match self.peek() {
            Some('"') => self.quoted('"'),
            Some(quote @ ('|' | '/')) if alternative_quotes => self.quoted(quote),
            Some('|' | '/') => self.fail("this quote is only for ~="),
            _ => {
                let value = self.take_while(|c| !c.is_whitespace() && c != ',');
                if value.is_empty() { self.fail("expected a value") } else { Ok(value.to_owned()) }
            }
        }
    }

    /// A quoted string with Go's escapes; in regular expressions between `|` or `/` a backslash stays, unless it is
    /// before the quote.
    fn quoted(&mut self, quote: char) -> Result<String, FilterError> {
        let start = self.at;
        self.at += 1;
        let mut out = String::new();
        loop {
            let Some(c) = self.peek().filter(|c| *c != '\n') else {
                self.at = start;
                return self.fail("quoted text does not end");
            };
            self.at += c.len_utf8();
            match c {
                c if c == quote => return Ok(out),
                '\\' if quote == '"' => out.push(self.escape()?),
                '\\' => match self.peek() {
                    Some(next) if next == quote => {
                        self.at += next.len_utf8();
                        out.push(next);
                    }
                    _ => out.push('\\'),
                },
                c => out.push(c),
            }
        }
    }

    fn escape(&mut self) -> Result<char, FilterError> {
        let Some(c) = self.peek() else { return self.fail("quoted text does not end") };
        let (radix, digits, skip) = match c {
            'x' => (16, 2, 1),
            'u' => (16, 4, 1),
            'U' => (16, 8, 1),
            '0'..='7' => (8, 3, 0),
            _ => {
                let plain = match c {
                    'a' => '\x07',
                    'b' => '\x08',
                    'f' => '\x0c',
                    'n' => '\n',
                    'r' => '\r',
                    't' => '\t',
                    'v' => '\x0b',
                    '\\' | '"' => c,
                    _ => return self.fail("illegal escape sequence"),
                };
                self.at += 1;
                return Ok(plain);
            }
        };
        let number =
            self.rest().get(skip..skip + digits).and_then(|text| u32::from_str_radix(text, radix).ok());
        match number.and_then(char::from_u32) {
            Some(value) => {
                self.at += skip + digits;
                Ok(value)
            }
            None => self.fail("illegal numeric escape sequence"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(filters: &[&str], fields: &[(&str, &str)]) -> bool {
        Filter::parse(filters).unwrap().matches(|path| {
            let found = fields.iter().find(|(name, _)| *name == path.join("."));
            found.map_or(("".into(), false), |(_, value)| (value.to_string().into(), true))
        })
    }

    #[test]
    fn selectors_match_as_containerds() {
        let fields = [("type", "regular"), ("id", "abc123"), ("inuse", ""), ("a.b c", "x,y")];
        for (filter, expected) in [
            ("", true),
            ("type==regular", true),
            ("type == regular", true),
            ("type==internal", false),
            ("type!=internal", true),
            ("inuse", true),
            ("mutable", false),
            ("mutable!=x", true),
            ("mutable==", false),
            ("id~=^abc", true),
            ("id~=c1", true),
            ("id~=/^b/", false),
            ("id~=|c\\d|", true),
            ("type==regular,inuse", true),
            ("type==regular,mutable", false),
            (r#"a."b c"=="x,y""#, true),
            (r#"type=="\x72egular""#, true),
        ] {
            if filter == "mutable==" {
                assert!(Filter::parse(&[filter]).is_err());
                continue;
            }
            assert_eq!(matches(&[filter], &fields), expected, "{filter}");
        }
        assert!(matches(&["mutable", "inuse"], &fields), "any of several");
        assert!(matches(&[], &fields));
    }

    #[test]
    fn wrong_filters_say_where() {
        for (filter, at) in [
            ("==x", 0),
            ("type=regular", 4),
            ("type==a b", 8),
            ("type==a,", 8),
            ("id~=(", 4),
            ("id==\"x", 4),
            ("id==/x/", 4),
            ("id==\"\\q\"", 6),
            ("id===x", 2),
        ] {
            assert_eq!(Filter::parse(&[filter]).unwrap_err().at, at, "{filter}");
        }
    }
}
