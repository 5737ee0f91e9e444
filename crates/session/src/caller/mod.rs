//! What the daemon asks of a client, one file for each service.

mod auth;
mod content;
mod exporter;
mod files;
mod policy;
mod secrets;
mod ssh;
mod upload;

pub use auth::{credentials, fetch_token, token_authority, verify_token_authority};
pub use content::ContentStore;
pub use exporter::{finalize_export, find_exporters};
pub use files::{FileSyncRequest, FileWriter, PacketStreams, receive_files, send_file, send_files};
pub use policy::check_policy;
pub use secrets::secret;
pub use ssh::{check_agent, forward_agent};
pub use upload::pull;
