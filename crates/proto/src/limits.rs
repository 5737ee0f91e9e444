//! Sizes that both ends of every connection agree on.
//!
//! gRPC libraries disagree about their defaults (4 MiB a message, 8 or 16 KiB a header list); BuildKit's peers send more than
//! that, and a peer that is stricter loses the real error: its details ride in a trailer. So no client or server of these
//! services is made without [`Limited::limited`], and no endpoint without [`MAX_HEADER_LIST`].

/// The largest gRPC message either way, in bytes.
pub const MAX_MESSAGE: usize = 16 << 20;

/// The largest list of headers or trailers, in bytes: an error's details are stack traces and whole Dockerfiles.
pub const MAX_HEADER_LIST: u32 = 16 << 20;

/// HTTP/2 flow control: bytes in flight for one stream. A tunnel inside a tunnel needs windows this large to fill a link.
pub const STREAM_WINDOW: u32 = 1 << 20;

/// HTTP/2 flow control: bytes in flight for one connection. Many streams may stand still, as transfers do when a disk is slow,
/// before they keep the answers to other calls, such as health checks, from coming through.
pub const CONNECTION_WINDOW: u32 = 32 << 20;

/// A generated client or server with the message limits of these services.
pub trait Limited: Sized {
    /// The same with [`MAX_MESSAGE`] set for both directions.
    #[must_use]
    fn limited(self) -> Self;
}

macro_rules! limited {
    ($($package:ident :: $client:ident :: $Client:ident, $server:ident :: $Server:ident;)*) => {
        $(
            impl<T> Limited for crate::$package::$client::$Client<T>
            where
                T: tonic::client::GrpcService<tonic::body::Body>,
                T::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
                T::ResponseBody: tonic::codegen::Body<Data = bytes::Bytes> + Send + 'static,
                <T::ResponseBody as tonic::codegen::Body>::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
            {
                fn limited(self) -> Self {
                    self.max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE)
                }
            }

            impl<T> Limited for crate::$package::$server::$Server<T> {
                fn limited(self) -> Self {
                    self.max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE)
                }
            }
        )*
    };
}

limited! {
    control::control_client::ControlClient, control_server::ControlServer;
    gateway::llb_bridge_client::LlbBridgeClient, llb_bridge_server::LlbBridgeServer;
    policysession::policy_verifier_client::PolicyVerifierClient, policy_verifier_server::PolicyVerifierServer;
    filesync::file_sync_client::FileSyncClient, file_sync_server::FileSyncServer;
    filesync::file_send_client::FileSendClient, file_send_server::FileSendServer;
    filesync::auth_client::AuthClient, auth_server::AuthServer;
    secrets::secrets_client::SecretsClient, secrets_server::SecretsServer;
    sshforward::ssh_client::SshClient, ssh_server::SshServer;
    upload::upload_client::UploadClient, upload_server::UploadServer;
    exporter::exporter_client::ExporterClient, exporter_server::ExporterServer;
    health::health_client::HealthClient, health_server::HealthServer;
    history::history_client::HistoryClient, history_server::HistoryServer;
    trace::trace_service_client::TraceServiceClient, trace_service_server::TraceServiceServer;
    content::content_client::ContentClient, content_server::ContentServer;
}
