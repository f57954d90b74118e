# A character-level model of your own text, such as a book by Mickiewicz:
#   python data/text/prepare.py FILE --name mickiewicz_char --tokenizer char
from config.train_shakespeare_char_core_line import *

out_dir = 'out-mickiewicz_char'
dataset = 'mickiewicz_char'

batch_size = 8
gradient_accumulation_steps = 16
weight_decay = 1e-2
