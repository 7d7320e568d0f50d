//! The whole face over a real socket, with no engine yet: what is answered, what waits, what is counted.

use std::time::Duration;

use cri_api::v1::image_service_client::ImageServiceClient;
use cri_api::v1::runtime_service_client::RuntimeServiceClient;
use cri_api::v1::*;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{UnixListener, UnixStream};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

use super::*;
use crate::telemetry::Rpcs;

/// A server at a socket of its own.
struct Server {
    channel: Channel,
    rpcs: Arc<Rpcs>,
    dir: tempfile::TempDir,
}

async fn serve() -> Server {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cri.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let (observe, readiness) = (Observe::new(), Readiness::default());
    let rpcs = observe.rpcs();
    let router = tonic::transport::Server::builder()
        .layer(observe)
        .layer(Deadlines)
        .add_service(runtime_service(readiness.clone(), CgroupDriver::Systemd))
        .add_service(image_service(readiness));
    tokio::spawn(router.serve_with_incoming(UnixListenerStream::new(listener)));
    let connect = tower::service_fn(move |_| {
        let path = path.clone();
        async move { Ok::<_, std::io::Error>(TokioIo::new(UnixStream::connect(path).await?)) }
    });
    let channel = Endpoint::from_static("http://berth").connect_with_connector(connect).await.unwrap();
    Server { channel, rpcs, dir }
}

fn metrics(server: &Server) -> String {
    let mut text = String::new();
    let registry = crate::telemetry::registry(server.rpcs.clone());
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    text
}

#[tokio::test]
async fn what_needs_no_engine_is_answered_at_once() {
    let server = serve().await;
    let mut client = RuntimeServiceClient::new(server.channel.clone());
    let version = client.version(VersionRequest::default()).await.unwrap().into_inner();
    assert_eq!((version.version.as_str(), version.runtime_api_version.as_str()), ("0.1.0", "v1"));
    let config = client.runtime_config(RuntimeConfigRequest {}).await.unwrap().into_inner();
    assert_eq!(config.linux.unwrap().cgroup_driver(), CgroupDriver::Systemd);
    assert!(metrics(&server).contains("rpc_answers_total{method=\"Version\",code=\"OK\"} 1"));
}

#[tokio::test]
async fn before_recovery_is_done_a_request_waits_and_is_not_refused() {
    let server = serve().await;
    let mut client = RuntimeServiceClient::new(server.channel.clone());
    let list = client.list_containers(ListContainersRequest::default());
    assert!(tokio::time::timeout(Duration::from_millis(100), list).await.is_err(), "it was answered");
    // The client hung up; the server hears of it a moment later.
    for _ in 0..100 {
        if metrics(&server).contains("rpc_answers_total{method=\"ListContainers\",code=\"CANCELLED\"} 1") {
            assert_eq!(server.rpcs.in_flight(), 0);
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("a client that hangs up is not counted:\n{}", metrics(&server));
}

/// The client has no clock of its own, as tonic's has: the server says it.
#[tokio::test]
async fn a_deadline_that_passes_is_told_as_what_it_is() {
    let server = serve().await;
    let stream = TokioIo::new(UnixStream::connect(server.dir.path().join("cri.sock")).await.unwrap());
    let (sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    tokio::spawn(connection);
    let service = tower::service_fn(move |request| sender.clone().send_request(request));
    let mut client = RuntimeServiceClient::with_origin(service, hyper::Uri::from_static("http://berth"));
    let limits = ["0n", "1n", "999u", "1m", "2m", "20m"].repeat(5);
    for limit in &limits {
        let mut request = tonic::Request::new(ListContainersRequest::default());
        request.metadata_mut().insert("grpc-timeout", limit.parse().unwrap());
        let late = client.list_containers(request).await.unwrap_err();
        assert_eq!(late.code(), Code::DeadlineExceeded, "{limit}: {late:?}");
    }
    let told = format!("rpc_answers_total{{method=\"ListContainers\",code=\"DEADLINE_EXCEEDED\"}} {}", limits.len());
    assert!(metrics(&server).contains(&told), "{}", metrics(&server));
    assert_eq!(server.rpcs.in_flight(), 0, "what nobody waits for any more is given up");
}

#[tokio::test]
async fn an_option_that_nobody_has_is_refused() {
    let server = serve().await;
    let mut client = RuntimeServiceClient::new(server.channel.clone());
    let options = [("faster".to_owned(), "yes".to_owned())].into();
    let request = CheckpointPodRequest { options, ..CheckpointPodRequest::default() };
    let refused = client.checkpoint_pod(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("\"faster\""), "{refused}");
    assert!(metrics(&server).contains("rpc_answers_total{method=\"CheckpointPod\",code=\"INVALID_ARGUMENT\"} 1"));
}

#[tokio::test]
async fn a_request_without_what_it_must_have_is_refused_by_field() {
    let server = serve().await;
    let mut client = RuntimeServiceClient::new(server.channel.clone());
    let run = client.run_pod_sandbox(RunPodSandboxRequest::default()).await.unwrap_err();
    assert_eq!((run.code(), run.message()), (Code::InvalidArgument, "config: must be set"));
    let mut client = ImageServiceClient::new(server.channel.clone());
    let pull = client.pull_image(PullImageRequest::default()).await.unwrap_err();
    assert_eq!((pull.code(), pull.message()), (Code::InvalidArgument, "image.image: must be set"));
    let auth = Some(AuthConfig { auth: "?".into(), ..AuthConfig::default() });
    let image = Some(ImageSpec { image: "x".into(), ..ImageSpec::default() });
    let pull = client.pull_image(PullImageRequest { image, auth, sandbox_config: None }).await.unwrap_err();
    assert_eq!(pull.code(), Code::InvalidArgument);
}
