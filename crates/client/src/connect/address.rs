//! Addresses, as the `--addr` flag and `BUILDKIT_HOST` give them.

use std::{fmt, path::PathBuf};

use crate::Error;

/// An address that makes sense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A Unix socket, or a named pipe of Windows.
    Local(PathBuf),
    /// A TCP port.
    Tcp {
        /// Name or number, IPv6 without brackets.
        host: String,
        /// The port.
        port: u16,
    },
    /// A program whose standard input and output are the connection.
    Helper(Helper),
}

/// A program that connects us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Helper {
    /// Its name, looked for in `PATH`.
    pub program: &'static str,
    /// Its arguments.
    pub args: Vec<String>,
}

impl Address {
    /// Reads an address.
    ///
    /// # Errors
    /// [`Error::Usage`] for anything that is none, or a scheme that this host cannot have.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let bad = |problem: &str| Error::Usage(format!("invalid address {text:?}: {problem}"));
        let (scheme, rest) =
            text.split_once("://").ok_or_else(|| bad("it has no scheme such as unix:// or tcp://"))?;
        if rest.is_empty() {
            return Err(bad("nothing follows the scheme"));
        }
        match scheme {
            "unix" if cfg!(unix) => Ok(Self::Local(rest.into())),
            "npipe" if cfg!(windows) => Ok(Self::Local(rest.replace('/', "\\").into())),
            "unix" => Err(bad("Unix sockets are for other systems, use npipe:// or tcp://")),
            "npipe" => Err(bad("named pipes are for Windows, use unix:// or tcp://")),
            "tcp" => tcp(rest).ok_or_else(|| bad("a host and a port are needed")),
            "docker-container" | "podman-container" | "nerdctl-container" | "kube-pod" | "ssh" => {
                helper(scheme, text).map_err(|problem| bad(&problem)).map(Self::Helper)
            }
            _ => Err(bad(&format!("{scheme}:// is no known scheme"))),
        }
    }

    /// The host, if the address names one: what a certificate must be for.
    #[must_use]
    pub fn host(&self) -> &str {
        match self {
            Self::Tcp { host, .. } => host,
            _ => "",
        }
    }

    /// The `:authority` of calls: the name that TLS was told, or host and port, or `localhost`.
    #[must_use]
    pub fn authority(&self, tls_name: Option<&str>) -> String {
        match (tls_name, self) {
            (Some(name), _) => name.to_owned(),
            (None, Self::Tcp { host, port }) if host.contains(':') => format!("[{host}]:{port}"),
            (None, Self::Tcp { host, port }) => format!("{host}:{port}"),
            (None, _) => "localhost".to_owned(),
        }
    }
}

fn tcp(rest: &str) -> Option<Address> {
    let (host, port) = rest.trim_end_matches('/').rsplit_once(':')?;
    let host = host.strip_prefix('[').map_or(Some(host), |h| h.strip_suffix(']'))?;
    let host = if host.is_empty() { "localhost" } else { host };
    Some(Address::Tcp { host: host.to_owned(), port: port.parse().ok()? })
}

fn helper(scheme: &str, text: &str) -> Result<Helper, String> {
    let url = url::Url::parse(text).map_err(|error| error.to_string())?;
    let host = url.host_str().filter(|h| !h.is_empty()).ok_or("a name is missing")?;
    // What begins with a dash would be an option of the helper.
    if host.starts_with('-') || url.username().starts_with('-') {
        return Err("a name must not begin with a dash".into());
    }
    let option = |key: &str| url.query_pairs().find(|(k, _)| k == key).map(|(_, v)| v.into_owned());
    let flag = |flag: &str, key: &str| option(key).map(|value| format!("{flag}={value}"));
    let dial = || ["buildctl", "dial-stdio"].map(str::to_owned);
    let exec = || ["exec".to_owned(), "-i".to_owned(), host.to_owned()];
    let mut args = Vec::new();
    let program = match scheme {
        "docker-container" => {
            args.extend(flag("--context", "context"));
            args.extend(exec());
            args.extend(dial());
            "docker"
        }
        "podman-container" => {
            args.extend(exec());
            args.extend(dial());
            "podman"
        }
        "nerdctl-container" => {
            args.extend(flag("--namespace", "namespace"));
            args.extend(exec());
            args.extend(dial());
            "nerdctl"
        }
        "kube-pod" => {
            args.extend(flag("--context", "context"));
            args.extend(flag("--namespace", "namespace"));
            args.extend(exec());
            args.extend(flag("--container", "container"));
            args.push("--".into());
            args.extend(dial());
            "kubectl"
        }
        _ => {
            if url.password().is_some() {
                return Err("ssh takes no password here; use a key or an agent".into());
            }
            if !url.username().is_empty() {
                args.extend(["-l".to_owned(), url.username().to_owned()]);
            }
            if let Some(port) = url.port() {
                args.extend(["-p".to_owned(), port.to_string()]);
            }
            args.extend(["--".to_owned(), host.to_owned(), "buildctl".to_owned()]);
            if !url.path().is_empty() && url.path() != "/" {
                args.extend(["--addr".to_owned(), format!("unix://{}", url.path())]);
            }
            args.push("dial-stdio".into());
            "ssh"
        }
    };
    Ok(Helper { program, args })
}

impl fmt::Display for Helper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.program, self.args.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        match Address::parse(text) {
            Ok(Address::Helper(helper)) => helper.to_string(),
            Ok(other) => format!("{other:?}"),
            Err(error) => format!("error: {error}"),
        }
    }

    #[test]
    fn tcp_needs_a_port() {
        assert_eq!(
            Address::parse("tcp://[::1]:1234").unwrap(),
            Address::Tcp { host: "::1".into(), port: 1234 }
        );
        assert_eq!(Address::parse("tcp://[::1]:1234").unwrap().authority(None), "[::1]:1234");
        assert!(Address::parse("tcp://host").is_err());
        assert!(Address::parse("tcp://host:http").is_err());
    }

    #[test]
    fn helpers_are_given_the_name_and_the_options() {
        assert_eq!(
            shown("docker-container://b?context=c"),
            "docker --context=c exec -i b buildctl dial-stdio"
        );
        assert_eq!(
            shown("kube-pod://p?namespace=n&container=c"),
            "kubectl --namespace=n exec -i p --container=c -- buildctl dial-stdio"
        );
        assert_eq!(
            shown("ssh://me@host:22022/run/b.sock"),
            "ssh -l me -p 22022 -- host buildctl --addr unix:///run/b.sock dial-stdio"
        );
    }

    #[test]
    fn no_name_becomes_an_option_of_a_helper() {
        assert!(shown("ssh://-oProxyCommand=x").starts_with("error"));
        assert!(shown("docker-container://-it").starts_with("error"));
    }

    #[test]
    fn other_texts_are_errors() {
        for text in ["", "unix", "unix://", "ftp://x", "npipe:////./pipe/x"] {
            assert!(Address::parse(text).is_err(), "{text}");
        }
    }
}
