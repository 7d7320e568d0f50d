//! A plugin of the Node Resource Interface, for tests: it remembers what it is told, and says what the test has it say.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use nri_api::ttrpc::{Request, Response, Status};
use nri_api::v1alpha1 as api;
use nri_api::wire::{Body, Decoder, Message, Side};
use nri_api::{PLUGIN_SERVICE, RUNTIME_SERVICE};
use prost::Message as _;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::{mpsc, oneshot};

/// A call that the plugin got.
#[derive(Debug, Clone)]
pub struct Call {
    /// Of the service `Plugin`.
    pub method: String,
    /// Its request, encoded.
    pub payload: Vec<u8>,
}

impl Call {
    /// The request as what it is.
    pub fn request<T: prost::Message + Default>(&self) -> T {
        T::decode(self.payload.as_slice()).unwrap_or_else(|e| panic!("{}: {e}", self.method))
    }

    /// The pod that most requests are about.
    pub fn pod(&self) -> api::PodSandbox {
        self.request::<api::StartContainerRequest>().pod.unwrap_or_default()
    }

    /// The container that many requests are about.
    pub fn container(&self) -> api::Container {
        self.request::<api::StartContainerRequest>().container.unwrap_or_default()
    }
}

/// What a plugin does with a call.
#[derive(Debug)]
pub enum Reply {
    /// Nothing is wrong, and nothing is wanted.
    Fine,
    /// An encoded response.
    Say(Vec<u8>),
    /// An error with a gRPC code.
    Fail(i32, String),
    /// No answer, ever.
    Hang,
    /// The connection ends.
    HangUp,
}

impl Reply {
    /// A response.
    pub fn with(message: &impl prost::Message) -> Reply {
        Reply::Say(message.encode_to_vec())
    }

    /// An adjustment of the container that is about to be created.
    pub fn adjust(change: impl FnOnce(&mut api::ContainerAdjustment)) -> Reply {
        let mut adjust = api::ContainerAdjustment::default();
        change(&mut adjust);
        Reply::with(&api::CreateContainerResponse { adjust: Some(adjust), ..Default::default() })
    }
}

type Waiting = Arc<Mutex<HashMap<u32, oneshot::Sender<Response>>>>;

/// A connected plugin. It hangs up when it is dropped.
#[derive(Debug)]
pub struct Plugin {
    calls: Arc<Mutex<Vec<Call>>>,
    out: mpsc::UnboundedSender<Message>,
    waiting: Waiting,
    last: Mutex<u32>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Plugin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Plugin {
    /// Connects and registers, and returns when it has learned what is there. It subscribes to `events`, 0 being all of them;
    /// Configure and Synchronize go to `answer`, too.
    pub async fn connect(
        socket: &Path,
        index: &str,
        name: &str,
        events: i32,
        answer: impl FnMut(&Call) -> Reply + Send + 'static,
    ) -> io::Result<Plugin> {
        Plugin::over(UnixStream::connect(socket).await?, index, name, events, answer).await
    }

    /// The same over a connection that is there.
    pub async fn over(
        stream: UnixStream,
        index: &str,
        name: &str,
        events: i32,
        answer: impl FnMut(&Call) -> Reply + Send + 'static,
    ) -> io::Result<Plugin> {
        let plugin = Plugin::unregistered(stream, events, answer);
        plugin.register(index, name).await?;
        let limit = std::time::Duration::from_secs(crate::fixture::seconds(30) as u64);
        let told = tokio::time::timeout(limit, async {
            while plugin.told("Synchronize").is_empty() && !plugin.task.is_finished() {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        });
        told.await.map_err(|_| io::Error::other("the plugin was not synchronized"))?;
        Ok(plugin)
    }

    /// A plugin that has said nothing yet.
    pub fn unregistered(
        stream: UnixStream,
        events: i32,
        answer: impl FnMut(&Call) -> Reply + Send + 'static,
    ) -> Plugin {
        let (out, messages) = mpsc::unbounded_channel();
        let (calls, waiting) = (Arc::<Mutex<Vec<Call>>>::default(), Waiting::default());
        let work = serve(stream, events, answer, calls.clone(), waiting.clone(), (out.clone(), messages));
        Plugin { calls, out, waiting, last: Mutex::new(0), task: tokio::spawn(work) }
    }

    /// Says who it is.
    pub async fn register(&self, index: &str, name: &str) -> io::Result<()> {
        let request = api::RegisterPluginRequest {
            plugin_name: name.to_owned(),
            plugin_idx: index.to_owned(),
            nri_version: "test".to_owned(),
        };
        self.call("RegisterPlugin", &request).await.map(drop)
    }

    /// Asks for changes of its own accord; those that were not made come back.
    pub async fn update(&self, update: Vec<api::ContainerUpdate>) -> io::Result<Vec<api::ContainerUpdate>> {
        let request = api::UpdateContainersRequest { update, ..Default::default() };
        let payload = self.call("UpdateContainers", &request).await?;
        Ok(api::UpdateContainersResponse::decode(payload.as_slice())?.failed)
    }

    async fn call(&self, method: &str, request: &impl prost::Message) -> io::Result<Vec<u8>> {
        let (told, answer) = oneshot::channel();
        let stream = {
            let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            let stream = *last + 1;
            *last = stream + 1;
            self.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(stream, told);
            stream
        };
        let request = Request {
            service: RUNTIME_SERVICE.to_owned(),
            method: method.to_owned(),
            payload: request.encode_to_vec(),
            ..Default::default()
        };
        let message = Message { side: Side::Runtime, stream, body: Body::Request(request) };
        let hung_up = || io::Error::other(format!("{method}: the runtime hung up"));
        self.out.send(message).map_err(|_| hung_up())?;
        let response = answer.await.map_err(|_| hung_up())?;
        match response.status {
            Some(Status { code, message }) if code != 0 => {
                Err(io::Error::other(format!("{method}: {code}: {message}")))
            }
            _ => Ok(response.payload),
        }
    }

    /// What it was told by a method, in order.
    pub fn told(&self, method: &str) -> Vec<Call> {
        self.calls().into_iter().filter(|call| call.method == method).collect()
    }

    /// All that it was told.
    pub fn calls(&self) -> Vec<Call> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The methods of its calls from Synchronize on.
    pub fn events(&self) -> Vec<String> {
        let methods = self.calls().into_iter().map(|call| call.method);
        methods.filter(|method| method != "Configure" && method != "Synchronize").collect()
    }

    /// Whether the runtime has not hung up.
    pub fn is_connected(&self) -> bool {
        !self.task.is_finished()
    }
}

type Outbox = (mpsc::UnboundedSender<Message>, mpsc::UnboundedReceiver<Message>);

async fn serve(
    stream: UnixStream,
    events: i32,
    mut answer: impl FnMut(&Call) -> Reply + Send + 'static,
    calls: Arc<Mutex<Vec<Call>>>,
    waiting: Waiting,
    (out, messages): Outbox,
) {
    let (mut read, write) = stream.into_split();
    let writer = tokio::spawn(send(write, messages));
    let (mut decoder, mut buffer) = (Decoder::default(), vec![0; 8192]);
    while let Ok(count @ 1..) = read.read(&mut buffer).await {
        for message in decoder.push(&buffer[..count]).unwrap_or_else(|e| panic!("the runtime says: {e}")) {
            match (message.side, message.body) {
                (Side::Plugin, Body::Request(request)) => {
                    assert_eq!(request.service, PLUGIN_SERVICE);
                    let call = Call { method: request.method, payload: request.payload };
                    calls.lock().unwrap_or_else(PoisonError::into_inner).push(call.clone());
                    let (status, payload) = match answer(&call) {
                        Reply::Fine if call.method == "Configure" => {
                            (None, api::ConfigureResponse { events }.encode_to_vec())
                        }
                        Reply::Fine if call.method == "Synchronize" => {
                            let more = call.request::<api::SynchronizeRequest>().more;
                            (None, api::SynchronizeResponse { more, ..Default::default() }.encode_to_vec())
                        }
                        Reply::Fine => (None, Vec::new()),
                        Reply::Say(payload) => (None, payload),
                        Reply::Fail(code, message) => (Some(Status { code, message }), Vec::new()),
                        Reply::Hang => continue,
                        Reply::HangUp => {
                            writer.abort();
                            return;
                        }
                    };
                    let body = Body::Response(Response { status, payload });
                    let _ = out.send(Message { side: Side::Plugin, stream: message.stream, body });
                }
                (Side::Runtime, Body::Response(response)) => {
                    let waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&message.stream);
                    drop(waiting.map(|waiting| waiting.send(response)));
                }
                (side, body) => panic!("the runtime says {body:?} on the side {side:?}"),
            }
        }
    }
    waiting.lock().unwrap_or_else(PoisonError::into_inner).clear();
    writer.abort();
}

async fn send(mut write: OwnedWriteHalf, mut messages: mpsc::UnboundedReceiver<Message>) {
    while let Some(message) = messages.recv().await {
        let bytes = message.encode().unwrap_or_else(|e| panic!("the plugin says: {e}"));
        if write.write_all(&bytes).await.is_err() {
            return;
        }
    }
}
