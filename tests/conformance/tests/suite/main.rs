//! The suite over every provider and decorator in the tree that needs no machine, in paused time, and over providers
//! with one mistake each.

mod bug;
mod buggy;
mod capabilities;
mod seeded;
mod stored;
mod subjects;
mod told;
mod whole;

mod over_the_mock {
    vk_conformance::conformance!(paused crate::subjects::mock);
}

mod over_the_state_file {
    vk_conformance::conformance!(paused crate::stored::Stored::new);
}

mod over_the_runner {
    vk_conformance::conformance!(paused crate::subjects::Runner::new);
}

mod over_limited {
    vk_conformance::conformance!(paused crate::subjects::limited);
}

mod over_delayed {
    vk_conformance::conformance!(paused crate::subjects::delayed);
}

mod over_metered {
    vk_conformance::conformance!(paused crate::subjects::metered);
}

mod over_faulty {
    vk_conformance::conformance!(paused crate::subjects::faulty);
}
