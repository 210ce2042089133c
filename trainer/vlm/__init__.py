"""Fine-tuning of vision-language models on conversations about pictures, with TRL: `assay train orm`, `... parm`.

config.py           every setting
conversations.py    LLaVA's conversation files;   mixture.py: several of them, or parts
rendering.py        a conversation as its model reads it, and where its answers stand
collator.py         batches of which only the answers are learnt
loading.py          the model with its processor, and what of it is trained
arguments.py        settings in TRL's words
answer_trainer.py   SFTTrainer with a learning rate of its own for the vision tower
yes_no.py           held-out yes/no questions, asked as the verifier service asks;   agreement.py: how many are right
run_folder.py       what a run leaves, and what it goes on from
watching.py         evaluations, logs and complete checkpoints, while training goes on
saving.py           the trained model, to be served
fine_tuning.py      all of it put together;   command.py: `assay train VERB`
"""
