//! Probes are answered whoever else is connected.

use anyhow::{Result, ensure};
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

use crate::harness::{quarried, same};

#[tokio::test]
async fn idle_connections_keep_out_no_probe() -> Result<()> {
    quarried("probes", &[], async |_bed, operator| {
        let process = operator.process()?;
        let mut idle = Vec::new();
        for port in [process.port(), process.health_port()] {
            for number in 0..300 {
                let mut peer = TcpStream::connect(("127.0.0.1", port)).await?;
                if number % 2 == 0 {
                    peer.write_all(b"GET /livez HTTP/1.1\r\nhost: ").await?;
                }
                idle.push(peer);
            }
        }
        for path in ["/livez", "/healthz", "/readyz"] {
            same(path, &process.health(path).await?, &200)?;
        }
        // Where the probes of earlier charts look.
        ensure!(process.is_ready().await);
        ensure!(!process.metrics().await?.0.is_empty());
        same(
            "/metrics on the port of health",
            &process.health("/metrics").await?,
            &404,
        )
    })
    .await
}
