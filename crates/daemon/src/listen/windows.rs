//! Windows' named pipes.

use std::{future::Future, io, pin::Pin};

use tokio::net::windows::named_pipe::{NamedPipeServer, ServerOptions};

use super::{Accept, Accepted, Connection};

pub(super) fn open(
    scheme: &str,
    rest: &str,
    _owner: (Option<u32>, Option<u32>),
) -> io::Result<Vec<Box<dyn Accept>>> {
    if scheme != "npipe" {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "on Windows, listen on npipe:// or tcp://"));
    }
    // npipe:////./pipe/name, as clients write it.
    let name = format!(r"\\{}", rest.trim_start_matches(['/', '\\']).replace('/', r"\"));
    let waiting = ServerOptions::new().first_pipe_instance(true).reject_remote_clients(true).create(&name)?;
    Ok(vec![Box::new(Pipe { name, waiting: Some(waiting) })])
}

/// A pipe has one instance for each client, and one more that waits for the next.
struct Pipe {
    name: String,
    waiting: Option<NamedPipeServer>,
}

impl Accept for Pipe {
    fn accept(&mut self) -> Pin<Box<dyn Future<Output = Accepted> + Send + '_>> {
        Box::pin(async {
            let server = match self.waiting.take() {
                Some(server) => server,
                None => ServerOptions::new().reject_remote_clients(true).create(&self.name)?,
            };
            server.connect().await?;
            self.waiting = Some(ServerOptions::new().reject_remote_clients(true).create(&self.name)?);
            Ok(Box::new(server) as Box<dyn Connection>)
        })
    }
}
