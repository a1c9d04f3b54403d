//! One temporary folder and the processes that live in it; both end with this process, however it ends.
//!
//! Destructors do not run when a process is killed or a static is forgotten. So a shell, the reaper, waits for the end
//! of a pipe whose other end only this process holds: the kernel closes it in every case. It then kills every process
//! whose id lies in `pids/` and removes the folder. A component writes its id there itself, before it becomes the
//! component, so there is no moment in which it runs unknown.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

/// Killing takes milliseconds; a disk that hangs shall not hang the tests for ever.
const REAP_LIMIT: Duration = Duration::from_secs(15);
/// Bytes at the end of a log that an error shows.
const TAIL: u64 = 4096;

const REAPER: &str = r#"
trap '' HUP INT TERM
while read -r _; do :; done
round=0
# A killed process that nobody has waited for yet still takes signals: so not for ever.
while [ $round -lt 10 ]; do
    alive=
    for file in "$1"/pids/*; do
        [ -s "$file" ] && kill -KILL "$(cat "$file")" 2>/dev/null && alive=yes
    done
    [ -z "$alive" ] && break
    round=$((round + 1))
    sleep 0.1
done
rm -rf "$1" || { sleep 1; rm -rf "$1"; }
"#;

const COMPONENT: &str = r#"echo $$ >"$0" && exec "$@""#;

/// The folder; dropping it ends what runs in it and removes it.
pub(super) struct Sandbox {
    path: PathBuf,
    reaper: Child,
}

impl Sandbox {
    pub(super) fn new() -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("keyturn-controlplane.")
            .tempdir()
            .context("create a temporary folder (TMPDIR says where)")?;
        for inner in ["pids", "logs", "home", "tmp"] {
            fs::create_dir(folder.path().join(inner)).context("create a folder in the temporary folder")?;
        }
        let reaper = Command::new("/bin/sh")
            .args(["-c", REAPER, "keyturn-reaper"])
            .arg(folder.path())
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C on the terminal goes to the whole group: the reaper must outlive it.
            .process_group(0)
            .spawn()
            .context("start the shell that cleans up after the control plane")?;
        Ok(Self {
            path: folder.keep(),
            reaper,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Starts a component whose output goes to a log file of its name, after what an earlier start wrote.
    pub(super) fn start(&self, name: &str, program: &Path, arguments: &[String]) -> Result<Component> {
        let log = self.path.join("logs").join(format!("{name}.log"));
        self.launch(&Launch {
            name,
            program,
            arguments,
            environment: &[],
            stdout: &log,
            stderr: &log,
        })
    }

    pub(super) fn launch(&self, launch: &Launch<'_>) -> Result<Component> {
        let Launch {
            name,
            program,
            arguments,
            environment,
            stdout,
            stderr,
        } = *launch;
        let pid = self.path.join("pids").join(name);
        let child = Command::new("/bin/sh")
            .args(["-c", COMPONENT])
            .arg(&pid)
            .arg(program)
            .args(arguments)
            // Variables such as ETCD_NAME or KUBECONFIG of the caller must not change what runs here.
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.path.join("home"))
            .env("TMPDIR", self.path.join("tmp"))
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .current_dir(&self.path)
            .stdin(Stdio::null())
            .stdout(append(stdout)?)
            .stderr(append(stderr)?)
            .process_group(0)
            .spawn()
            .with_context(|| format!("start {name} ({})", program.display()))?;
        Ok(Component {
            name: name.to_owned(),
            child,
            pid,
            log: stderr.to_owned(),
        })
    }
}

/// What to run and where its output goes.
pub(crate) struct Launch<'a> {
    /// No other running component's.
    pub(crate) name: &'a str,
    pub(crate) program: &'a Path,
    pub(crate) arguments: &'a [String],
    /// Beside `PATH`, `HOME` and `TMPDIR`.
    pub(crate) environment: &'a [(String, String)],
    pub(crate) stdout: &'a Path,
    pub(crate) stderr: &'a Path,
}

fn append(path: &Path) -> Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("open {}", path.display()))
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        drop(self.reaper.stdin.take());
        let deadline = Instant::now() + REAP_LIMIT;
        while Instant::now() < deadline {
            match self.reaper.try_wait() {
                Ok(None) => std::thread::sleep(Duration::from_millis(10)),
                Ok(Some(_)) | Err(_) => return,
            }
        }
    }
}

/// A running program; dropping it kills it.
pub(crate) struct Component {
    pub(super) name: String,
    child: Child,
    pid: PathBuf,
    log: PathBuf,
}

impl Component {
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// `Some` when it ended by itself.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child
            .try_wait()
            .with_context(|| format!("look after {}", self.name))
    }

    /// `SIGKILL`, and its end.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.child
            .kill()
            .and_then(|()| self.child.wait())
            .with_context(|| format!("kill {}", self.name))?;
        Ok(())
    }

    /// The last lines of its log, with the file's name, for an error.
    pub(crate) fn log_tail(&self) -> String {
        let text = tail(&self.log).unwrap_or_else(|error| format!("(unreadable: {error})"));
        format!("the log of {} ends:\n{text}", self.name)
    }
}

impl Drop for Component {
    /// By `SIGKILL`: nothing of a test control plane is worth a graceful end, which takes the API server a minute.
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        // The id may soon be another process's.
        let _ = fs::remove_file(&self.pid);
    }
}

fn tail(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).trim_end().to_owned())
}
