//! PortForward: TCP connections to a pod's loopback. The pod's monitor, which lives in the pod's network namespace, makes each
//! socket; the agent connects it. A socket stays in the namespace that it was made in, so the agent never enters one.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use cri_api::v1::PortForwardRequest;
use tokio::net::{TcpSocket, TcpStream};

use super::monitors::PodMonitor;
use super::{Engine, Error, chain, of_pod};
use crate::model::{Pod, PodId, PodPhase};
use crate::monitor::client::IpFamily;
use crate::stream::{ConnectPort, Session};

/// As everywhere: what listens on IPv6 alone is found second.
const LOOPBACKS: [(IpFamily, IpAddr); 2] =
    [(IpFamily::V4, IpAddr::V4(Ipv4Addr::LOCALHOST)), (IpFamily::V6, IpAddr::V6(Ipv6Addr::LOCALHOST))];

impl Engine {
    /// Where the client finds the pod that it wants to reach.
    ///
    /// # Errors
    /// When the pod is not ready, a port is none, or the pod's monitor is too old.
    pub fn port_forward(self: &Arc<Self>, request: PortForwardRequest) -> Result<String, Error> {
        let pod = self.pod(&request.pod_sandbox_id)?;
        let monitor = self.monitor_of_ready(&pod)?;
        if let Some(port) = request.port.iter().find(|port| !(1..=65535).contains(*port)) {
            return Err(Error::Invalid { field: "port", reason: format!("{port} is not from 1 to 65535") });
        }
        monitor.check_streams(&pod.id)?;
        let (engine, id) = (self.clone(), pod.id.clone());
        let connect: ConnectPort = Arc::new(move |port| {
            let (engine, id) = (engine.clone(), id.clone());
            Box::pin(async move { engine.connect(&id, port).await.map_err(|error| chain(&error)) })
        });
        // A connection that is left open would keep the network of a pod that is gone.
        let gone = Box::pin(monitor.lost());
        self.open_session(Session::PortForward { connect, gone })
    }

    fn monitor_of_ready(&self, pod: &Pod) -> Result<Arc<PodMonitor>, Error> {
        let monitor = self.monitors.get(&pod.id).filter(|_| pod.state.phase == PodPhase::Ready);
        monitor.ok_or_else(|| Error::WrongState {
            what: "pod sandbox",
            id: pod.id.to_string(),
            state: "not ready",
            wanted: "ready",
        })
    }

    async fn connect(&self, pod: &PodId, port: u16) -> Result<TcpStream, Error> {
        let monitor = self.monitor_of_ready(&*self.pod(pod.as_str())?)?;
        let mut first = None;
        for (family, address) in LOOPBACKS {
            match connect_to(pod, &monitor, family, SocketAddr::new(address, port)).await {
                Ok(stream) => return Ok(stream),
                Err(error) => first = first.or(Some(error)),
            }
        }
        Err(first.unwrap_or(Error::Cancelled))
    }
}

async fn connect_to(
    pod: &PodId,
    monitor: &PodMonitor,
    family: IpFamily,
    address: SocketAddr,
) -> Result<TcpStream, Error> {
    let socket = monitor.client.open_socket(family).await.map_err(of_pod(pod))?;
    let connected = async {
        let stream = TcpSocket::from_std_stream(socket.into()).connect(address).await?;
        // Whatever the client sends is on its way already; waiting for more would only add to it.
        stream.set_nodelay(true)?;
        io::Result::Ok(stream)
    };
    let failed = |source| Error::Connect { pod: pod.to_string(), address, source };
    connected.await.map_err(failed)
}
