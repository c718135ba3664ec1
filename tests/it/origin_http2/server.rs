//! An origin that speaks HTTP/2 over TLS as a test says, frame by frame.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use h2::server::{Builder, SendResponse};
use h2::{RecvStream, SendStream};
use http::{Request, Response};
use peerage::{Config, Server};
use rustls_pki_types::PrivatePkcs8KeyDer;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::harness::{TestEdge, config, run};
use crate::tls::pki::Ca;

/// A request, and the stream for its response.
pub struct Exchange {
    pub request: Request<RecvStream>,
    pub respond: SendResponse<Bytes>,
    /// The number of the connection, from 0.
    pub connection: usize,
}

impl Exchange {
    /// Sends the head of a 200 with these headers.
    pub fn head(&mut self, headers: &[(&str, &str)]) -> SendStream<Bytes> {
        let mut response = Response::builder();
        for (name, value) in headers {
            response = response.header(*name, *value);
        }
        self.respond.send_response(response.body(()).unwrap(), false).unwrap()
    }

    /// Sends a 200 that may be stored.
    pub async fn answer(&mut self, body: Bytes) {
        let length = body.len().to_string();
        let mut stream = self.head(&[("cache-control", "max-age=600"), ("content-length", &length)]);
        let _ = send(&mut stream, body, true).await;
    }

    pub fn path(&self) -> &str {
        self.request.uri().path()
    }
}

/// Sends bytes as the receiver's windows allow. Returns false if the stream was reset.
pub async fn send(stream: &mut SendStream<Bytes>, mut bytes: Bytes, is_last: bool) -> bool {
    while !bytes.is_empty() {
        stream.reserve_capacity(bytes.len());
        let Some(Ok(capacity)) = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await else {
            return false;
        };
        let part = bytes.split_to(capacity.min(bytes.len()));
        let ends = is_last && bytes.is_empty();
        if stream.send_data(part, ends).is_err() {
            return false;
        }
    }
    true
}

/// The end of a connection.
#[derive(Clone, Copy)]
pub enum Shutdown {
    Never,
    /// GOAWAY behind this number of requests. Those that arrive later are not processed.
    After(usize),
    /// The end of the connection, without GOAWAY, instead of the response to this request.
    CutAt(usize),
}

type Handler = dyn Fn(Exchange) -> BoxFuture<'static, ()> + Send + Sync;

/// The origin.
pub struct Http2Origin {
    pub address: SocketAddr,
    pub connections: Arc<AtomicUsize>,
    /// The requests over HTTP/1.1, as far as their head.
    pub http1: Arc<Mutex<Vec<String>>>,
    ca: PathBuf,
    _folder: TempDir,
}

impl Http2Origin {
    pub async fn start<F>(handler: impl Fn(Exchange) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self::with(Builder::new(), Shutdown::Never, handler).await
    }

    pub async fn with<F>(
        builder: Builder,
        shutdown: Shutdown,
        handler: impl Fn(Exchange) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let handler: Arc<Handler> = Arc::new(move |exchange| Box::pin(handler(exchange)));
        let http1: Arc<Mutex<Vec<String>>> = Arc::default();
        let requests = Arc::clone(&http1);
        let origin = Self::listen(move |tls, number| {
            let (builder, handler, requests) = (builder.clone(), Arc::clone(&handler), Arc::clone(&requests));
            Box::pin(async move {
                if tls.get_ref().1.alpn_protocol() == Some(b"h2") {
                    serve(tls, builder, shutdown, number, handler).await;
                } else {
                    serve_http1(tls, &requests).await;
                }
            })
        })
        .await;
        Self { http1, ..origin }
    }

    /// Accepts connections, and numbers them from 0.
    async fn listen(
        serve: impl Fn(TlsStream<TcpStream>, usize) -> BoxFuture<'static, ()> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, folder) = (listener.local_addr().unwrap(), tempfile::tempdir().unwrap());
        let ca = Ca::new(&format!("CA of {address}"));
        let acceptor = acceptor(&ca);
        let origin = Self {
            address,
            connections: Arc::default(),
            http1: Arc::default(),
            ca: ca.write(folder.path()),
            _folder: folder,
        };
        let connections = Arc::clone(&origin.connections);
        tokio::spawn(async move {
            let serve = Arc::new(serve);
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let number = connections.fetch_add(1, Ordering::Relaxed);
                let (acceptor, serve) = (acceptor.clone(), Arc::clone(&serve));
                tokio::spawn(async move {
                    if let Ok(tls) = acceptor.accept(tcp).await {
                        serve(tls, number).await;
                    }
                });
            }
        });
        origin
    }

    /// Starts an origin that writes `bytes` to each connection when it has got the client's first ones,
    /// and discards what it gets.
    pub async fn raw(bytes: Vec<u8>) -> Self {
        let bytes = Arc::new(bytes);
        Self::listen(move |tls, _| {
            let bytes = Arc::clone(&bytes);
            Box::pin(async move {
                let (mut reader, mut writer) = tokio::io::split(tls);
                // The preface, SETTINGS, WINDOW_UPDATE and HEADERS are in the first bytes.
                let mut first = [0; 100];
                if reader.read_exact(&mut first).await.is_err() {
                    return;
                }
                let writing = async {
                    let _ = writer.write_all(&bytes).await;
                    let _ = writer.flush().await;
                };
                let reading = async {
                    let _ = tokio::io::copy(&mut reader, &mut tokio::io::sink()).await;
                };
                tokio::join!(writing, reading);
            })
        })
        .await
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Starts an edge in front of this origin.
    pub async fn edge(&self, change: impl FnOnce(&mut Config)) -> TestEdge {
        let mut config = config("edge-1");
        config.origin.url = format!("https://{}", self.address).parse().unwrap();
        config.origin.ca = Some(self.ca.clone());
        change(&mut config);
        run(Server::bind(config).await.unwrap())
    }
}

fn acceptor(ca: &Ca) -> TlsAcceptor {
    let pair = ca.issue(&["127.0.0.1"]);
    let key = PrivatePkcs8KeyDer::from(pair.key.serialize_der());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![pair.certificate.der().clone()], key.into())
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

async fn serve(tls: TlsStream<TcpStream>, builder: Builder, shutdown: Shutdown, number: usize, handler: Arc<Handler>) {
    let Ok(mut connection) = builder.handshake::<_, Bytes>(tls).await else { return };
    let mut requests = 0;
    while let Some(Ok((request, respond))) = connection.accept().await {
        let exchange = Exchange { request, respond, connection: number };
        requests += 1;
        if matches!(shutdown, Shutdown::CutAt(last) if requests == last) {
            return;
        }
        tokio::spawn(handler(exchange));
        if matches!(shutdown, Shutdown::After(most) if requests == most) {
            connection.graceful_shutdown();
        }
    }
}

/// Switches to WebSocket if asked for it; otherwise the response says HTTP/1.1.
async fn serve_http1(mut tls: TlsStream<TcpStream>, requests: &Mutex<Vec<String>>) {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match tls.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => return,
            }
        }
        let head = String::from_utf8(head).unwrap();
        let is_upgrade = head.contains("upgrade: websocket");
        requests.lock().unwrap().push(head);
        let response = if is_upgrade {
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nwelcome"
        } else {
            "HTTP/1.1 200 OK\r\ncache-control: max-age=600\r\ncontent-length: 8\r\n\r\nHTTP/1.1"
        };
        if tls.write_all(response.as_bytes()).await.is_err() || tls.flush().await.is_err() {
            return;
        }
    }
}
