//! A client over TLS 1.3 with X25519 and AES-128-GCM, the cipher that all servers here choose.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{
    CipherSuite, ClientConfig, ClientConnection, DigitallySignedStruct, Error, HandshakeKind, SignatureScheme,
    StreamOwned,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::certificate::NAME;
use super::load::output;

/// The number of threads that make handshakes, so that the server finds several at a time.
const CLIENTS: usize = 8;

/// A kind of handshake.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Full,
    Resumed,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Resumed => "resumed",
        }
    }
}

/// Makes handshakes at full speed, in a process of its own on the second processor. Returns their
/// number.
pub fn handshakes(address: SocketAddr, kind: Kind, time: Duration) -> f64 {
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.args(["--handshakes", &address.to_string(), kind.name(), &time.as_secs_f64().to_string()]);
    let text = output(&command);
    text.trim().parse().unwrap_or_else(|_| panic!("the handshakes with {address}: {text}"))
}

/// Runs the process of [`handshakes`], and prints its figure.
pub fn shake_hands(arguments: &[String]) {
    let [address, kind, seconds] = arguments else { panic!("expected ADDRESS KIND SECONDS") };
    let address = address.parse().unwrap();
    let kind = if kind == Kind::Full.name() { Kind::Full } else { Kind::Resumed };
    let until = Instant::now() + Duration::from_secs_f64(seconds.parse().unwrap());
    let count: u64 = std::thread::scope(|scope| {
        let clients: Vec<_> =
            (0..CLIENTS).map(|_| scope.spawn(move || shake_hands_until(until, address, kind))).collect();
        clients.into_iter().map(|client| client.join().unwrap()).sum()
    });
    println!("{count}");
}

fn shake_hands_until(until: Instant, address: SocketAddr, kind: Kind) -> u64 {
    let config = config(kind);
    if kind == Kind::Resumed {
        TlsClient::connect(address, &config).end();
    }
    let expected = if kind == Kind::Full { HandshakeKind::Full } else { HandshakeKind::Resumed };
    let mut count = 0;
    while Instant::now() < until {
        let client = TlsClient::connect(address, &config);
        assert_eq!(client.0.conn.handshake_kind(), Some(expected));
        client.end();
        count += 1;
    }
    count
}

/// Returns a client's settings. Sessions are resumed with [`Kind::Resumed`] only.
pub fn config(kind: Kind) -> Arc<ClientConfig> {
    let provider = CryptoProvider {
        cipher_suites: vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256],
        kx_groups: vec![aws_lc_rs::kx_group::X25519],
        ..aws_lc_rs::default_provider()
    };
    let builder =
        ClientConfig::builder_with_provider(Arc::new(provider)).with_protocol_versions(&[&rustls::version::TLS13]);
    let verified = builder.unwrap().dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate));
    let mut config = verified.with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.resumption = if kind == Kind::Full { Resumption::disabled() } else { Resumption::in_memory_sessions(8) };
    Arc::new(config)
}

/// A connection after its handshake.
pub struct TlsClient(StreamOwned<ClientConnection, TcpStream>);

impl TlsClient {
    pub fn connect(address: SocketAddr, config: &Arc<ClientConfig>) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        let connection = ClientConnection::new(Arc::clone(config), ServerName::try_from(NAME).unwrap()).unwrap();
        let mut stream = StreamOwned::new(connection, stream);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock).unwrap();
        }
        let suite = stream.conn.negotiated_cipher_suite().unwrap().suite();
        assert_eq!(suite, CipherSuite::TLS13_AES_128_GCM_SHA256);
        Self(stream)
    }

    /// Waits for a session ticket, which ends the server's part, and closes the connection.
    fn end(mut self) {
        while self.0.conn.tls13_tickets_received() == 0 {
            let read = self.0.conn.read_tls(&mut self.0.sock).unwrap();
            assert!(read > 0, "the server closed the connection");
            self.0.conn.process_new_packets().unwrap();
        }
        self.0.conn.send_close_notify();
        self.0.conn.write_tls(&mut self.0.sock).unwrap();
    }

    /// Requests `path`, and reads the response with a body of `size`.
    pub fn get(&mut self, path: &str, size: usize) {
        self.0.write_all(format!("GET {path} HTTP/1.1\r\nhost: {NAME}\r\n\r\n").as_bytes()).unwrap();
        let mut received = Vec::new();
        let mut whole = usize::MAX;
        while received.len() < whole {
            let mut buffer = [0; 16 * 1024];
            let read = self.0.read(&mut buffer).unwrap();
            received.extend_from_slice(&buffer[..read]);
            if let Some(end) = received.windows(4).position(|window| window == b"\r\n\r\n") {
                whole = end + 4 + size;
            }
        }
        assert!(received.starts_with(b"HTTP/1.1 200"), "{path} over TLS");
    }
}

/// Accepts every certificate: the clients' part is not measured.
#[derive(Debug)]
struct AnyCertificate;

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}
