//! Builds one Go module's programs into a cache that all clones on this machine share.

use std::fs::{self, File, TryLockError};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use aws_lc_rs::digest::{SHA256, digest};

/// Nobody waits longer for a build, own or another process's; from nothing Kubernetes takes about 15 minutes on 2 cores.
const BUILD_LIMIT: Duration = Duration::from_hours(1);
/// How often a build says that it is alive.
const PROGRESS_EVERY: Duration = Duration::from_secs(10);
/// Lines of the compiler's output that an error shows.
const ERROR_LINES: usize = 30;
/// Bump when this file or `binaries.rs` builds something else from the same module files.
const RECIPE: &str = "1";

/// A Go module of `tests/testbed/controlplane/`: its `tool` lines name the programs to build.
pub(super) struct Module {
    pub(super) name: &'static str,
    pub(super) go_mod: &'static str,
    pub(super) go_sum: &'static str,
    /// Linker flags that set the version which the programs report.
    pub(super) versions: &'static str,
    /// What comes out besides the programs, made in the output folder given.
    pub(super) extra: fn(module: &Path, output: &Path) -> Result<()>,
}

impl Module {
    /// The folder that holds the module's programs; built into it first if it is not there.
    pub(super) fn ensure(&self, cache: &Path, progress: &dyn Fn(&str)) -> Result<PathBuf> {
        let output = cache.join(format!("{}-{}", self.name, self.key()));
        if output.exists() {
            return Ok(output);
        }
        fs::create_dir_all(cache).with_context(|| format!("create the cache folder {}", cache.display()))?;
        let _lock = self.lock(cache, progress)?;
        // Another process may have built it while this one waited for the lock.
        if output.exists() {
            return Ok(output);
        }
        let started = Instant::now();
        // The lock makes a fixed name safe; what an interrupted build left behind goes first.
        let part = cache.join(format!("{}.part", self.name));
        if part.exists() {
            fs::remove_dir_all(&part).with_context(|| format!("remove {}", part.display()))?;
        }
        let module = part.join("module");
        fs::create_dir_all(&module).with_context(|| format!("create {}", module.display()))?;
        fs::write(module.join("go.mod"), self.go_mod).context("write go.mod")?;
        fs::write(module.join("go.sum"), self.go_sum).context("write go.sum")?;
        let bin = part.join("bin");
        self.build(&module, &bin, progress)?;
        (self.extra)(&module, &bin)?;
        fs::rename(&bin, &output).with_context(|| format!("move the programs to {}", output.display()))?;
        fs::remove_dir_all(&part).with_context(|| format!("remove {}", part.display()))?;
        progress(&format!(
            "{}: built in {} s",
            self.name,
            started.elapsed().as_secs()
        ));
        Ok(output)
    }

    /// Changes with everything that the programs are made of, save the compiler.
    fn key(&self) -> String {
        let text = [RECIPE, self.go_mod, self.go_sum, self.versions].join("\0");
        let hash = digest(&SHA256, text.as_bytes());
        // 64 bits: enough to tell the few recipes of one machine apart.
        let (start, _) = hash.as_ref().split_at(8);
        start
            .iter()
            .fold(String::new(), |key, byte| key + &format!("{byte:02x}"))
    }

    fn lock(&self, cache: &Path, progress: &dyn Fn(&str)) -> Result<File> {
        let path = cache.join(format!("{}.lock", self.name));
        let file = File::create(&path).with_context(|| format!("create {}", path.display()))?;
        let started = Instant::now();
        let mut said = None::<Instant>;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) if started.elapsed() < BUILD_LIMIT => {
                    if said.is_none_or(|at| at.elapsed() >= PROGRESS_EVERY) {
                        progress(&format!("{}: waiting for another build of it to end", self.name));
                        said = Some(Instant::now());
                    }
                    std::thread::sleep(Duration::from_millis(500));
                }
                Err(error) => {
                    return Err(error).with_context(|| {
                        format!(
                            "lock {} to build {}; is another build stuck? End it and run this again",
                            path.display(),
                            self.name
                        )
                    });
                }
            }
        }
    }

    fn build(&self, module: &Path, bin: &Path, progress: &dyn Fn(&str)) -> Result<()> {
        progress(&format!("{}: building (once; kept for later runs)", self.name));
        let mut child = go()
            .current_dir(module)
            .args(["build", "-v", "-trimpath", "-buildvcs=false", "-ldflags"])
            .arg(format!("-s -w {}", self.versions))
            // A folder needs the trailing slash; "tool" stands for all programs of the module's tool lines.
            .arg("-o")
            .arg(format!("{}/", bin.display()))
            .arg("tool")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context(
                "run go, which builds the control plane of the tests; install Go 1.26 or newer (Debian: \
                 golang-go), or set KEYTURN_TEST_KUBECONFIG to use a cluster of yours",
            )?;
        let (lines, output) = mpsc::channel();
        if let Some(stderr) = child.stderr.take() {
            std::thread::spawn(move || {
                for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                    if lines.send(line).is_err() {
                        return;
                    }
                }
            });
        }

        let started = Instant::now();
        let mut said = started;
        let mut packages = 0_u32;
        let mut text = Vec::new();
        loop {
            match output.recv_timeout(Duration::from_secs(1)) {
                Ok(line) => {
                    packages += u32::from(!line.contains(' '));
                    text.push(line);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if said.elapsed() >= PROGRESS_EVERY {
                said = Instant::now();
                let last = text.last().map_or("", String::as_str);
                progress(&format!(
                    "{}: {} s, {packages} packages, now {last}",
                    self.name,
                    started.elapsed().as_secs()
                ));
            }
            if started.elapsed() > BUILD_LIMIT {
                child.kill().context("end go, which took too long")?;
            }
        }
        let status = child.wait().context("wait for go")?;
        if !status.success() {
            let tail = text.split_off(text.len().saturating_sub(ERROR_LINES)).join("\n");
            bail!(
                "go build of {} ended with {status} after {} s:\n{tail}\nIf a download failed, check the Go proxy \
                 (go env GOPROXY) and run this again: what is compiled already is kept in Go's own cache.",
                self.name,
                started.elapsed().as_secs()
            );
        }
        Ok(())
    }
}

/// The folder that Go unpacked `dependency` of `module` into.
pub(super) fn source_of(module: &Path, dependency: &str) -> Result<PathBuf> {
    let output = go()
        .current_dir(module)
        .args(["list", "-m", "-f", "{{.Dir}}", dependency])
        .output()
        .with_context(|| format!("run go list for {dependency}"))?;
    let folder = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if folder.is_empty() {
        bail!(
            "go list found no source of {dependency}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(folder.into())
}

/// Go with a static result and without a workspace file of some folder above.
fn go() -> Command {
    let mut command = Command::new("go");
    command.env("CGO_ENABLED", "0").env("GOWORK", "off");
    command
}
