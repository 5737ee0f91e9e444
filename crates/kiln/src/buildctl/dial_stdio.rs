//! `buildctl dial-stdio`: standard input and output as a connection to the daemon, for clients on other hosts.

use clap::Args;
use kiln_client::{
    Error,
    connect::{self, Address},
};
use tokio::io::{AsyncWriteExt as _, copy, split, stdin, stdout};

use super::Global;

/// Proxy the stdio stream to the daemon connection. Should not be invoked manually.
#[derive(Args)]
#[command(hide = true)]
pub(crate) struct DialStdio {}

impl DialStdio {
    pub(crate) async fn run(self, global: &Global) -> Result<(), Error> {
        let text = global.address();
        let address = Address::parse(&text)?;
        if !matches!(address, Address::Local(_)) {
            return Err(Error::Usage(format!(
                "dial-stdio only works with addresses of this host, not {text}"
            )));
        }
        let broken = |problem: String| Error::Connect { address: text.clone(), problem };
        let open = connect::open(address);
        let stream = match global.timeout() {
            Some(limit) => tokio::time::timeout(limit, open)
                .await
                .unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into())),
            None => open.await,
        };
        let (mut from, mut to) = split(stream.map_err(|error| broken(error.to_string()))?);
        // The connection has ended when the daemon's side has, whatever is still to be read here.
        tokio::spawn(async move {
            // The daemon may have gone first.
            drop(copy(&mut stdin(), &mut to).await);
            drop(to.shutdown().await);
        });
        let mut out = stdout();
        copy(&mut from, &mut out).await.map_err(Error::io("copying from the daemon"))?;
        out.flush().await.map_err(Error::io("writing to standard output"))
    }
}
