//! `keyturn crds`: the definitions of our kinds.

use std::io::{self, Write};

use anyhow::Context;
use clap::Args;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;

/// The arguments of `keyturn crds`.
#[derive(Debug, Args)]
pub(super) struct Crds {}

impl Crds {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let Self {} = self;
        print(&crate::api::crds(), &mut io::stdout().lock())
    }
}

/// One YAML document per definition, each behind `---`.
fn print(crds: &[CustomResourceDefinition], out: &mut impl Write) -> anyhow::Result<()> {
    for crd in crds {
        let name = crd.metadata.name.as_deref().unwrap_or_default();
        let text = crate::api::to_yaml(crd).with_context(|| format!("failed to print the CRD {name}"))?;
        writeln!(out, "---\n{}", text.trim_end()).context("failed to write to stdout")?;
    }
    out.flush().context("failed to write to stdout")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::crds;

    #[test]
    fn each_definition_is_a_document_that_reads_back() {
        let crds = crds();
        let mut text = Vec::new();
        print(&crds, &mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        let documents: Vec<&str> = text.split("---\n").skip(1).collect();
        assert_eq!(documents.len(), crds.len());
        for (document, crd) in documents.into_iter().zip(crds) {
            let read: CustomResourceDefinition = serde_saphyr::from_str(document).unwrap();
            assert_eq!(read, crd);
        }
    }
}
