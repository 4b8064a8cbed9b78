//! Pods that are not created yet, and commands for them.

use vk_core::provider::{ResolvedPod, unsupported};

use super::Bench;
use crate::check::{Check, skip};
use crate::journal::MAIN;
use crate::pods::{self, Plan};
use crate::subject::{Errand, Recipe, Work};

impl Bench {
    /// A recipe for the work.
    ///
    /// # Errors
    /// Not applicable without any.
    pub fn recipe(&self, container: &str, work: &Work) -> Check<Recipe> {
        match self.subject.recipe(container, work) {
            Some(recipe) => Ok(recipe),
            None => skip(format!("the backend has nothing that does {work:?} (Subject::recipe)")),
        }
    }

    /// A command for the errand.
    ///
    /// # Errors
    /// Not applicable without any.
    pub fn errand(&self, errand: &Errand) -> Check<Vec<String>> {
        match self.subject.errand(errand) {
            Some(command) => Ok(command),
            None => skip(format!("there is no command that does {errand:?} (Subject::errand)")),
        }
    }

    /// A pod of this plan, not created yet.
    ///
    /// # Errors
    /// Not applicable without a recipe for its work.
    pub fn draft(&self, plan: &Plan) -> Check<ResolvedPod> {
        let recipe = self.recipe(MAIN, &plan.work)?;
        let init = plan.init.as_ref().map(|work| self.recipe(pods::INIT, work)).transpose()?;
        let other = plan.other.as_ref().map(|work| self.recipe(pods::OTHER, work)).transpose()?;
        // Whoever is told to kill at once must not wait for the pod's own grace instead.
        let grace = self.patience.stop.as_secs().saturating_mul(4).max(60);
        Ok(pods::build(plan, &recipe, init.as_ref(), other.as_ref(), grace, |pod| self.subject.dress(pod)))
    }

    /// The pod with one more container, which does this. It is not given to the provider yet.
    ///
    /// # Errors
    /// Not applicable without a recipe for the work, or where such a container is not honoured.
    pub fn with_added(&self, pod: &ResolvedPod, work: &Work) -> Check<ResolvedPod> {
        let more = pods::with_added(pod, &self.recipe(pods::ADDED, work)?);
        let refused = unsupported(&more.object, self.provider().fields());
        match refused.iter().find(|finding| finding.path.starts_with("spec.ephemeralContainers")) {
            Some(finding) => skip(format!("{} is not honoured (Provider::fields)", finding.path)),
            None => Ok(more),
        }
    }

    /// A draft that the backend refuses for good, and the field that is to blame.
    ///
    /// # Errors
    /// Not applicable if it refuses none.
    pub fn spoilt(&self, plan: &Plan) -> Check<(ResolvedPod, String)> {
        let recipe = self.recipe(MAIN, &plan.work)?;
        let mut field = None;
        let pod = pods::build(plan, &recipe, None, None, 60, |pod| {
            self.subject.dress(pod);
            field = self.subject.spoil(pod);
        });
        match field {
            Some(field) => Ok((pod, field)),
            None => skip("the backend refuses no pod for good (Subject::spoil)"),
        }
    }
}
