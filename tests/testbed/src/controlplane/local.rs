//! The processes of a control plane of our own.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use kube::Client;

use super::Options;
use super::binaries::Servers;
use super::client::{self, READ_TIMEOUT};
use super::components::Layout;
use super::nodes;
use super::sandbox::{Component, Sandbox};
use crate::wait;

/// Six seconds on an idle machine with 2 cores; ten times that when tests and compilers share them.
const READY_LIMIT: Duration = Duration::from_mins(2);

/// Components in the order in which they start. Dropped in the order of the fields: the API server's clients first.
pub(super) struct Local {
    clients: Mutex<Vec<Component>>,
    apiserver: Mutex<Option<Component>>,
    etcd: Mutex<Component>,
    pub(super) layout: Layout,
    servers: Servers,
}

impl Local {
    pub(super) async fn start(sandbox: &Sandbox, servers: &Servers, options: Options) -> Result<Self> {
        let layout = Layout::write(sandbox.path(), &servers.stages, options)?;
        let etcd = sandbox.start("etcd", &servers.etcd, &layout.etcd())?;
        let local = Self {
            clients: Mutex::default(),
            apiserver: Mutex::default(),
            etcd: Mutex::new(etcd),
            layout,
            servers: servers.clone(),
        };
        local.start_apiserver(sandbox).await?;
        Ok(local)
    }

    /// Starts the API server, and when it is ready the components that are its clients; those that run are left alone.
    pub(super) async fn start_apiserver(&self, sandbox: &Sandbox) -> Result<()> {
        {
            let mut apiserver = lock(&self.apiserver);
            if apiserver.is_none() {
                let arguments = self.layout.apiserver();
                *apiserver = Some(sandbox.start("kube-apiserver", &self.servers.apiserver, &arguments)?);
            }
        }
        let client = client::from(&self.layout.admin, READ_TIMEOUT).await?;
        self.until("the API server to be ready", READY_LIMIT, async || {
            ready(&client).await
        })
        .await?;

        if lock(&self.clients).is_empty() {
            nodes::release(&client).await?;
        }
        let mut clients = lock(&self.clients);
        if clients.is_empty() {
            let (layout, servers) = (&self.layout, &self.servers);
            for (name, program, arguments) in [
                (
                    "kube-controller-manager",
                    &servers.controller_manager,
                    layout.controller_manager(),
                ),
                ("kube-scheduler", &servers.scheduler, layout.scheduler()),
                ("kwok", &servers.kwok, layout.kwok()),
            ] {
                clients.push(sandbox.start(name, program, &arguments)?);
            }
        }
        Ok(())
    }

    /// Kills the API server, and its clients among the components with it: after a long outage their back-off would
    /// keep a test waiting for a minute, and the nodes would turn `NotReady`; started anew they work in a second.
    pub(super) fn stop_apiserver(&self) {
        lock(&self.clients).clear();
        lock(&self.apiserver).take();
    }

    /// [`wait::until`] that also fails when a component ends, and whose error shows the end of that one's log.
    pub(super) async fn until(
        &self,
        what: &str,
        limit: Duration,
        mut probe: impl AsyncFnMut() -> Result<Option<()>>,
    ) -> Result<()> {
        let waited = wait::until(what, limit, async || match self.check() {
            Ok(()) => Ok(probe().await?.map(Ok)),
            Err(ended) => Ok(Some(Err(ended))),
        });
        match waited.await {
            Ok(outcome) => outcome.with_context(|| format!("wait for {what}")),
            Err(error) => Err(anyhow!("{error:#}\n{}", self.log_tails())),
        }
    }

    /// An error if a component ended that should run.
    pub(super) fn check(&self) -> Result<()> {
        let (mut etcd, mut apiserver, mut clients) =
            (lock(&self.etcd), lock(&self.apiserver), lock(&self.clients));
        for component in std::iter::once(&mut *etcd)
            .chain(apiserver.iter_mut())
            .chain(clients.iter_mut())
        {
            if let Some(status) = component.ended()? {
                bail!("{} ended with {status}; {}", component.name, component.log_tail());
            }
        }
        Ok(())
    }

    pub(super) fn process_ids(&self) -> Vec<(String, u32)> {
        let (etcd, apiserver, clients) = (lock(&self.etcd), lock(&self.apiserver), lock(&self.clients));
        let all = std::iter::once(&*etcd)
            .chain(apiserver.iter())
            .chain(clients.iter());
        all.map(|component| (component.name.clone(), component.id()))
            .collect()
    }

    fn log_tails(&self) -> String {
        let (etcd, apiserver, clients) = (lock(&self.etcd), lock(&self.apiserver), lock(&self.clients));
        let all = std::iter::once(&*etcd)
            .chain(apiserver.iter())
            .chain(clients.iter());
        all.map(Component::log_tail).collect::<Vec<_>>().join("\n")
    }
}

/// A panic elsewhere leaves no half-made state behind: the lists only hold processes.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn ready(client: &Client) -> Result<Option<()>> {
    let answer = client::get(client, "/readyz").await?;
    Ok((answer == "ok").then_some(()))
}
