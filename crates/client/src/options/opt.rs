//! `--opt`, `--local` and other lists of `key=value`; `--allow`.

use super::csv::Attrs;
use crate::Error;

/// What comes before the name of a build argument in an option.
const BUILD_ARG: &str = "build-arg:";
/// Variables of the environment that builds see without being told.
const PROPAGATED: &[&str] = &["SOURCE_DATE_EPOCH"];

/// Reads `key=value` texts; the last of equal keys counts.
///
/// # Errors
/// [`Error::Usage`] naming what is no pair.
pub fn parse_pairs(texts: &[String]) -> Result<Attrs, Error> {
    let pair = |text: &String| match text.split_once('=') {
        Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
        None => Err(Error::Usage(format!("invalid value {text}: it must be a key=value pair"))),
    };
    texts.iter().map(pair).collect()
}

/// Reads frontend options. A build argument without a value has that of the environment, or is left out.
///
/// # Errors
/// [`Error::Usage`] naming what is no pair.
pub fn parse_opts(texts: &[String], env: &dyn Fn(&str) -> Option<String>) -> Result<Attrs, Error> {
    let mut opts = Attrs::new();
    for name in PROPAGATED {
        if let Some(value) = env(name) {
            opts.insert(format!("{BUILD_ARG}{name}"), value);
        }
    }
    for text in texts {
        match text.strip_prefix(BUILD_ARG).filter(|name| !name.is_empty() && !name.contains('=')) {
            Some(name) => opts.extend(env(name).map(|value| (text.clone(), value))),
            None => opts.append(&mut parse_pairs(std::slice::from_ref(text))?),
        }
    }
    Ok(opts)
}

/// Checks an entitlement: a name that is known, possibly with a value.
///
/// # Errors
/// [`Error::Usage`] for any other name.
pub fn parse_allow(text: &str) -> Result<String, Error> {
    let (name, value) = text.split_once('=').map_or((text, None), |(name, value)| (name, Some(value)));
    match (name, value) {
        ("network.host" | "security.insecure", None) | ("device", _) => Ok(text.to_owned()),
        ("network.host" | "security.insecure", Some(_)) => {
            Err(Error::Usage(format!("entitlement {name} takes no value")))
        }
        _ => Err(Error::Usage(format!(
            "unknown entitlement {text}; known are network.host, security.insecure and device"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn build_arguments_may_come_from_the_environment() {
        let env = |name: &str| match name {
            "A" => Some("1".to_owned()),
            "SOURCE_DATE_EPOCH" => Some("7".to_owned()),
            _ => None,
        };
        let texts = ["build-arg:A", "build-arg:B", "build-arg:C=x=y", "target=t"].map(str::to_owned);
        let opts = parse_opts(&texts, &env).unwrap();
        let shown: Vec<_> = opts.iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(shown, ["build-arg:A=1", "build-arg:C=x=y", "build-arg:SOURCE_DATE_EPOCH=7", "target=t"]);
        assert!(parse_opts(&["target".to_owned()], &env).is_err());
    }

    #[test]
    fn entitlements_are_known_by_name() {
        assert!(parse_allow("network.host").is_ok());
        assert!(parse_allow("device=vendor.com/x").is_ok());
        assert!(parse_allow("network.none").is_err());
        assert!(parse_allow("network.host=1").is_err());
    }
}
