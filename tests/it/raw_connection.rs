//! Raw connections to an edge, and from an edge to its origin.

use peerage::{Config, Server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::harness::{TestEdge, config, run, within};

/// One end of a connection, which is read and written byte by byte.
pub struct RawConnection(pub TcpStream);

impl RawConnection {
    pub async fn write(&mut self, bytes: &str) {
        self.0.write_all(bytes.as_bytes()).await.unwrap();
    }

    /// Reads as many bytes as `expected` has, and compares them.
    pub async fn expect_bytes(&mut self, expected: &str) {
        let mut bytes = vec![0; expected.len()];
        within(20, self.0.read_exact(&mut bytes)).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&bytes), expected);
    }

    /// Reads a head, and nothing behind it.
    pub async fn head(&mut self) -> String {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            head.push(within(20, self.0.read_u8()).await.unwrap().into());
        }
        head
    }

    /// Checks that nothing comes before the end of the connection.
    pub async fn expect_end(&mut self) {
        let mut rest = Vec::new();
        // A reset is an end too.
        let _ = within(20, self.0.read_to_end(&mut rest)).await;
        assert_eq!(String::from_utf8_lossy(&rest), "");
    }
}

pub async fn connect(edge: &TestEdge) -> RawConnection {
    RawConnection(TcpStream::connect(edge.clients).await.unwrap())
}

pub async fn accept(listener: &TcpListener) -> RawConnection {
    RawConnection(within(20, listener.accept()).await.unwrap().0)
}

/// Starts an edge, and returns it with the listener that is its origin.
pub async fn edge_with_raw_origin(change: impl FnOnce(&mut Config)) -> (TestEdge, TcpListener) {
    let origin = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut config = config("edge-1");
    config.origin.url = format!("http://{}", origin.local_addr().unwrap()).parse().unwrap();
    change(&mut config);
    (run(Server::bind(config).await.unwrap()), origin)
}
